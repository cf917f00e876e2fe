"""What kernels of infinitely wide networks share: hyperparameters, and the choice between NNGP and NTK."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .kernel import Kernel, _log_parameter


class NetworkKernel(Kernel):
    """A kernel of ``depth`` hidden layers. A subclass implements ``_kernels``."""

    def __init__(self, depth: int, activation: str, w_std: float, b_std: float, last_w_std: float, kind: str) -> None:
        super().__init__()
        op = type(self).__name__
        self.depth = checks.integer(op, "depth", depth)
        checks.one_of(op, "activation", activation, ("relu", "erf"))
        checks.one_of(op, "kind", kind, ("nngp", "ntk"))
        checks.non_negative(op, "b_std", b_std)
        self.activation, self.kind = activation, kind
        self.log_w_std = _log_parameter(op, "w_std", w_std, 0)
        self.log_b_std = _log_parameter(op, "b_std", b_std, 0) if b_std else None
        self.log_last_w_std = _log_parameter(op, "last_w_std", last_w_std, 0)

    def extra_repr(self) -> str:
        """What print shows of the kernel."""
        return f"depth={self.depth}, activation={self.activation!r}, kind={self.kind!r}"

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.nngp(x, z) if self.kind == "nngp" else self.ntk(x, z)

    def nngp(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """The NNGP kernel: x of M points and z of N points give (..., M, N)."""
        return self._kernels(x, z, False)[0]

    def ntk(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """The neural tangent kernel: x of M points and z of N points give (..., M, N)."""
        return self.nngp_and_ntk(x, z)[1]

    def nngp_and_ntk(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both kernels in one pass."""
        nngp, ntk = self._kernels(x, z, True)
        assert ntk is not None
        return nngp, ntk

    def _kernels(self, x: Tensor, z: Tensor | None, ntk: bool) -> tuple[Tensor, Tensor | None]:
        """The NNGP, and the NTK if it is wanted."""
        raise NotImplementedError

    def _variances(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Variances (depth + 1,) of weights and of biases."""
        w, last = (log.to(like).exp().square() for log in (self.log_w_std, self.log_last_w_std))
        b = torch.zeros_like(w) if self.log_b_std is None else self.log_b_std.to(like).exp().square()
        return torch.stack([w] * self.depth + [last]), torch.stack([b] * self.depth + [torch.zeros_like(b)])
