"""deepinv's physics objects as operators, and operators as its physics."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._base import Operator, require_operator


class FromPhysics(Operator):
    """A deepinv physics, or another object with ``A`` and ``A_adjoint``, as an operator: see :func:`as_operator`."""

    def __init__(self, physics: Any) -> None:
        super().__init__()
        self.physics = physics

    def _forth(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def _back(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)

    def pinv(self, y: Tensor) -> Tensor:
        """See the base."""
        return self.physics.A_dagger(y) if callable(getattr(self.physics, "A_dagger", None)) else super().pinv(y)


def as_operator(value: Any) -> Operator:
    """``value`` as an operator: an :class:`Operator` as it is, a linear physics of deepinv, or any object with methods
    ``A`` and ``A_adjoint``. ``A_dagger`` is its pseudo-inverse if it has one.

    Its noise does not count: give it to :class:`Measurement`. The other way round, :func:`to_deepinv` makes a physics.

    Raises:
        TypeError: ``value`` has no such methods; a physics that is not linear has no ``A_adjoint``.

    Example:
        >>> import torch
        >>> from probkernels.inverse import as_operator
        >>> class Twice:
        ...     def A(self, x): return 2 * x
        ...     def A_adjoint(self, y): return 2 * y
        >>> as_operator(Twice()).adjoint(torch.ones(1, 2))
        tensor([[2., 2.]])
    """
    if isinstance(value, Operator):
        return value
    if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in ("A", "A_adjoint")):
        expected = "an Operator, or an object with methods A and A_adjoint"
        raise TypeError(message("as_operator", "value", expected, checks.describe(value)))
    return FromPhysics(value)


def to_deepinv(operator: Operator, **options: Any) -> Any:
    """A ``deepinv.physics.LinearPhysics`` of an operator, where deepinv wants its own class.

    Args:
        operator: the operator.
        options: options of LinearPhysics, for instance ``noise_model``.

    Raises:
        ImportError: deepinv is not installed: ``pip install probkernels[inverse]``.

    Example:
        >>> from probkernels.inverse import Identity, to_deepinv
        >>> physics = to_deepinv(Identity())  # doctest: +SKIP
    """
    require_operator("to_deepinv", "operator", operator)
    try:
        from deepinv.physics import LinearPhysics
    except ImportError as error:
        raise ImportError("to_deepinv: needs deepinv. Hint: pip install probkernels[inverse]") from error

    class Physics(LinearPhysics):
        """The operator's A, adjoint and pseudo-inverse; what it lacks is deepinv's iterative one."""

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return operator.A(x)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return operator.adjoint(y)

        def A_dagger(self, y: Tensor, **how: Any) -> Tensor:
            try:
                return operator.pinv(y)
            except NotImplementedError:
                return super().A_dagger(y, **how)

    made = Physics(**options)
    made.operator = operator  # a submodule, which moves with it
    return made
