"""Fixtures of the whole suite. ``on`` runs a test once for every backend that this process can test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from probkernels import use_backend

from tests import backends

torch.set_num_threads(1)  # the suite itself runs in parallel
torch.use_deterministic_algorithms(True, warn_only=True)  # fresh tensors hold NaN: what nobody wrote shows at once
torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
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
