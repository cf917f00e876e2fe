"""Fixtures of the whole suite. ``on`` runs a test once for every backend that this process can test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
import torch
from probkernels import use_backend

from tests import backends

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # or each worker starts processes that compile for it
torch.set_num_threads(1)  # the suite itself runs in parallel
torch.use_deterministic_algorithms(True, warn_only=True)  # fresh tensors hold NaN: what nobody wrote shows at once
torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--other-torch", action="store_true", help="only what another version of torch may break")


def asks_torch(item: pytest.Item) -> bool:
    """Whether a test of an op may fail under another torch that adds and multiplies like the pinned one.

    What surrounds the ops differs there: dispatcher, autograd, transforms, compiler. Tests of references and emulated
    kernels ask nothing of it that those of the C++ kernels do not ask. A composition test asks each op once, on its
    first example. What Inductor makes of an op's derivative is plain arithmetic of torch's own.
    """
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.path.parent.name != "compose" or "op" not in params:
        return params.get("on") != "reference"
    return item.originalname != "test_compile_inductor" and re.search(r"-0\b", item.callspec.id) is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--other-torch"):
        config.hook.pytest_deselected(items=[item for item in items if not asks_torch(item)])
        items[:] = [item for item in items if asks_torch(item)]
    slow, gpu = pytest.mark.skip(reason="slow: use --runslow"), pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--runslow"):
            item.add_marker(slow)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(gpu)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=backends.names())
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device to make tensors on, inside ``use_backend`` of one backend."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with use_backend(request.param):
        yield backends.device(request.param)
