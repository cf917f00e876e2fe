"""The native module's launchers refuse arguments that they cannot take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels._core import native

pytestmark = pytest.mark.skipif(native.problem is not None, reason=str(native.problem))


def launcher(name: str) -> Any:
    """A function of the native module."""
    return getattr(native.module, name)


def test_a_wrong_number_of_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match="philox_cpu: a native launcher takes 10 arguments, not 2"):
        launcher("philox_cpu")(0, torch.empty(1, 4))


@pytest.mark.parametrize("at, bad", [(0, 0.5), (3, "1"), (4, None), (9, 2.0)])
def test_a_number_of_another_type_is_refused(at: int, bad: object) -> None:
    arguments = [0, torch.empty(1, 4), None, 1, 4, 7, 0, 0, False, 1]
    launcher("philox_cpu")(*arguments)
    arguments[at] = bad
    with pytest.raises(TypeError, match=f"philox_cpu: a native launcher got {bad!r} where it takes a number"):
        launcher("philox_cpu")(*arguments)


def test_a_tensor_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="sequence"):
        launcher("linear_step_cpu")(0, 3, torch.ones(1), None, None, torch.empty(1), *([1] * 7), 1)
