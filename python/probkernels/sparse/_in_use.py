"""The weight in use: the tensor that ``module.weight`` returns while an adapter trains it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class InUse(Tensor):
    """An alias of a frozen weight whose gradient goes to the values.

    Every use makes a new alias, so assigning other memory to the alias assigns it to the weight itself.
    """

    __torch_function__ = nn.Parameter.__torch_function__  # type: ignore[assignment]  # as a plain tensor
    _is_param = True  # isinstance(weight, nn.Parameter), which get_parameter() asks for
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

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().__reduce_ex__(protocol)


def in_use(alias: Tensor, weight: Tensor) -> InUse:
    """``alias``, made one that knows its weight."""
    alias.__class__ = InUse
    assert isinstance(alias, InUse)
    alias._weight = weight
    return alias
