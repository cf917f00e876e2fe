"""The CUDA kernels of latent trees on the emulator: several tiles and groups, in every order of threads."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops.latent_tree import FLOWS
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.ops.latent_trees import Model, random_model
from tests.tolerances import SUM, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))


def run(model: Model, codes: Tensor, backend: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    tree = model.tree.flatten().tolist()
    with use_backend(backend):
        return FLOWS.call(model.weights.to(dtype), model.leaves.to(dtype), codes, tree, None, model.missing)


@pytest.mark.parametrize(
    ("nodes", "states", "batch"), [(7, [2, 40], 70), (2, [3], 40 * 32 + 5)], ids=["tiles", "groups"]
)
def test_every_order_gives_the_same_bits(
    nodes: int, states: list[int], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(nodes, states)
    codes = model.codes(batch)
    runs = []
    for order in (*ORDERS, ORDERS[0]):
        monkeypatch.setenv("CUEMU_ORDER", order)
        runs.append(run(model, codes, "cuda_emu", torch.float32))
    for got, expected in zip(runs[0], run(model, codes, "reference", torch.float64), strict=True):
        assert_close(got, expected, torch.float32, SUM, terms=batch)
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))


@pytest.mark.slow
@pytest.mark.skipif("PK_EMULATOR" in os.environ, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, 2)
