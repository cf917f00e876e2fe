"""Test functions: optima, the score written out letter by letter, feasibility, errors."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from probkernels.blackbox import Ehrlich, branin, hartmann6
from torch import Tensor

SIZES = [(2, 4, 1, 4), (4, 12, 2, 4), (4, 8, 2, 4), (20, 40, 3, 5), (5, 7, 1, 1)]


def score(f: Ehrlich, x: list[int]) -> float:
    """The definition, letter by letter."""
    if any(not f.allowed[a, b] for a, b in itertools.pairwise(x)):
        return f.infeasible
    found = 1.0
    for motif, offsets in zip(f.motifs.tolist(), f.offsets.tolist(), strict=True):
        hits = [
            sum(x[start + o] == m for o, m in zip(offsets, motif, strict=True)) for start in range(len(x) - offsets[-1])
        ]
        found *= math.floor(max(hits) * f.quantization / len(motif)) / f.quantization
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_ehrlich_has_its_optimum(size: tuple[int, int, int, int], seed: int) -> None:
    f = Ehrlich(*size, seed=seed)
    best = f.optimum()
    assert best.shape == (size[1],) and f(best).item() == 1.0 and bool(f.is_feasible(best))
    assert bool(f.allowed.diagonal().all()) and bool((f.allowed.sum(1) >= 2).all())
    assert bool((f.offsets[:, 0] == 0).all()) and int(f.offsets.max()) < size[1] // size[2]
    x = f.random_designs(50, torch.Generator().manual_seed(seed))
    assert bool(f.is_feasible(x).all()) and torch.equal(x, f.random_designs(50, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("quantization", [None, 2, 1])
def test_ehrlich_is_its_definition(quantization: int | None) -> None:
    f = Ehrlich(4, 12, 2, 4, quantization=quantization, infeasible=-1.0, seed=3)
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [f.random_designs(100, generator), torch.randint(4, (100, 12), generator=generator), f.optimum()[None]]
    )
    expected = torch.tensor([score(f, row) for row in x.tolist()])
    torch.testing.assert_close(f(x), expected)
    assert -1.0 in expected and 1.0 in expected and len(expected.unique()) > 2
    torch.testing.assert_close(f(x[:6].view(2, 3, 12).int()), expected[:6].view(2, 3))


def test_letters_lie_on_one_cycle() -> None:
    """From every letter every other one can be reached."""
    for seed in range(5):
        reach = Ehrlich(7, 8, seed=seed).allowed.float()
        assert bool((torch.linalg.matrix_power(reach, 7) > 0).all())
        assert not bool((reach > 0).all())


def holo(**changes: object) -> SimpleNamespace:
    """The attributes of holo-bench's function."""
    given = {
        "num_states": 3, "dim": 6, "negate": False, "_quantization": 2,
        "motifs": (torch.tensor([0, 1]), torch.tensor([2, 2])), "spacings": [torch.tensor([2]), torch.tensor([1])],
        "_epistasis_factor": 0.0, "noise_std": None,
        "transition_matrix": torch.tensor([[0.5, 0.5, 0.0], [0.3, 0.3, 0.4], [0.5, 0.0, 0.5]]),
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


def test_functions_of_holo_bench_are_taken() -> None:
    f = Ehrlich.from_holo(holo())
    x = torch.tensor([[0, 0, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0], [0, 2, 2, 2, 2, 2], [0, 1, 1, 1, 2, 2]])
    assert f(x).tolist() == [1.0, 0.0, -math.inf, 1.0]
    with pytest.raises(ValueError, match="_epistasis_factor"):
        Ehrlich.from_holo(holo(_epistasis_factor=0.5))


def test_the_peer_agrees() -> None:
    peer = pytest.importorskip("holo.test_functions.closed_form").Ehrlich(
        num_states=5, dim=12, num_motifs=2, motif_length=4
    )
    f = Ehrlich.from_holo(peer)
    x = torch.cat([torch.randint(5, (200, 12), generator=torch.Generator().manual_seed(0)), peer.initial_solution(200)])
    torch.testing.assert_close(f(x), peer.evaluate_true(x).float())


def maximum(function: object, low: Tensor, high: Tensor) -> Tensor:
    """The largest value that gradient ascent finds from a grid of random points."""
    x = low + (high - low) * torch.rand(100, len(low), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-function(x).sum()).backward()  # type: ignore[operator]
        optimizer.step()
        x.data = x.data.clamp(low, high)
    return function(x.detach()).max()  # type: ignore[operator]


def test_real_functions_have_their_known_maxima() -> None:
    found = maximum(branin, torch.tensor([-5.0, 0.0]).double(), torch.tensor([10.0, 15.0]).double())
    assert float(found) == pytest.approx(-0.397887, abs=1e-5)
    minima = torch.tensor([[-math.pi, 12.275], [math.pi, 2.275], [3 * math.pi, 2.475]], dtype=torch.float64)
    torch.testing.assert_close(branin(minima), torch.full((3,), -0.397887).double(), atol=1e-6, rtol=0)
    found = maximum(hartmann6, torch.zeros(6).double(), torch.ones(6).double())
    assert float(found) == pytest.approx(3.32237, abs=1e-5)


def test_bad_input() -> None:
    f = Ehrlich(4, 12)
    with pytest.raises(ValueError, match=r"'length'.*at least motifs"):
        Ehrlich(4, 7, 2, 4)
    with pytest.raises(ValueError, match=r"'quantization'.*a divisor of motif_length"):
        Ehrlich(4, 12, quantization=3)
    with pytest.raises(ValueError, match=r"'x': expected letters 0 to 3, got 4 at \[0, 2\]"):
        f(torch.tensor([[0, 0, 4, *[0] * 9]]))
    with pytest.raises(ValueError, match=r"shape \(..., 12\)"):
        f(torch.zeros(2, 11, dtype=torch.long))
    with pytest.raises(TypeError, match="'x'"):
        f(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"shape \(..., 2\)"):
        branin(torch.zeros(3))
