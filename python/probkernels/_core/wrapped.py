"""Tensors that torch.func wraps."""

from __future__ import annotations

from torch import Tensor

try:  # private names; without them gradients of torch.func are not seen
    from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, is_gradtrackingtensor
except ImportError:  # pragma: no cover - depends on the torch version

    def is_functorch_wrapped_tensor(tensor: Tensor) -> bool:
        return False


def differentiated(t: Tensor) -> bool:
    """Whether torch.func.grad, vjp or the like takes a gradient to a tensor, at any level."""
    while is_functorch_wrapped_tensor(t):
        if is_gradtrackingtensor(t) and t.requires_grad:
            return True
        t = get_unwrapped(t)
    return False
