"""The weight in use: the tensor that ``module.weight`` returns while an adapter trains it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._core.errors import message


class InUse(Tensor):
    """An alias of a frozen weight whose gradient goes to the values.

    Every use makes a new alias, so assigning other memory to the alias assigns it to the weight itself.
    """

    __torch_function__ = nn.Parameter.__torch_function__  # as a plain tensor
    __slotnames__ = ("_weight",)  # torch.utils.swap_tensors refuses tensors with different slots; it would be lost
    _weight: Tensor

    @property
    def data(self) -> Tensor:
        """The memory that it shares with the weight."""
        return self._weight.data

    @data.setter
    def data(self, new: Tensor) -> None:
        self._weight.data = new

    def set_(self, *source: Any, **settings: Any) -> Tensor:
        """Gives the weight another memory, as ``data`` does; under no_grad, as torch asks for."""
        self._weight.set_(*source, **settings)
        return self

    @property
    def grad(self) -> Tensor | None:
        """That of this use alone, if ``retain_grad()`` was called; gradients go to the values."""
        return super().grad

    @grad.setter
    def grad(self, new: Tensor | None) -> None:
        raise self._lost("grad")

    def register_hook(self, hook: Any) -> Any:
        """Refused, as the next use would not have it.

        Raises:
            ValueError: always.
        """
        raise self._lost("register_hook")

    @staticmethod
    def _lost(name: str) -> ValueError:
        hint = "use that of the values, an entry of adapter.parameters()"
        return ValueError(message("sparse", name, "a parameter that stays", "the weight of one use", hint))

    # --- nn.Parameter(weight), isinstance(weight, nn.Parameter), copies ---

    def detach(self) -> Tensor:
        """An alias of the same class, which ``nn.Parameter(weight)`` insists on."""
        return in_use(super().detach(), self._weight)

    @property
    def _is_param(self) -> bool:  # isinstance asks for it, and so get_parameter()
        return True

    @_is_param.setter
    def _is_param(self, value: bool) -> None:  # nn.Parameter() sets it of the alias that it makes a parameter
        vars(self).pop("_weight", None)  # which would live, and be pickled, as long as the parameter
        self.__class__ = nn.Parameter  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return super().detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().detach().__reduce_ex__(protocol)


def in_use(alias: Tensor, weight: Tensor) -> InUse:
    """``alias``, made one that knows its weight."""
    alias.__class__ = InUse
    assert isinstance(alias, InUse)
    alias._weight = weight
    return alias
