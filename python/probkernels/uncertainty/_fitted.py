"""What maps fitted to a calibration set have in common: parameters that are there once they are fitted or loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def not_fitted(op: str) -> RuntimeError:
    """The error of a calibrator that is used before it is fitted."""
    return RuntimeError(f"{op}: no parameters yet. Hint: call fit(logits, labels), or load_state_dict first")


class FittedMap(nn.Module):
    """Keeps fitted parameters as buffers of the logits' dtype and device, one tensor each."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.register_buffer(name, None)

    def _keep(self, like: Tensor, **fitted: Tensor) -> None:
        for name, value in fitted.items():
            setattr(self, name, value.detach().to(like))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.names:  # one that is not fitted yet takes any shape
            found = state_dict.get(prefix + name)
            if getattr(self, name) is None and isinstance(found, Tensor):
                setattr(self, name, torch.empty_like(found))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check_fitted(self) -> None:
        if getattr(self, self.names[0]) is None:
            raise not_fitted(type(self).__name__)
