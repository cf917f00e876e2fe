"""Steps as sums of values: noise by counter, many values, guidance that learns, half precision, other devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from probkernels import use_backend
from probkernels.diffusion import VP, Denoiser, StepNoise, VPDiscrete, grid, learned_ancestral, sample, table
from probkernels.diffusion.noise import Draw
from probkernels.diffusion.solvers.mixing import combined
from torch import Tensor, nn

from tests.diffusion.test_gradients import DIMS, Net, denoiser, everything, gradients, leaf, same

NOISY = ["ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "edm_stochastic", "euler_maruyama"]


class Bends(nn.Module):
    """Works on every element alone: the same bits in every batch."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return (x.tanh() + t.view(-1, *[1] * (x.ndim - 1)).to(x)) * (1 if cond is None else 0.5)


def bends(**options: Any) -> Denoiser:
    return Denoiser(Bends(), VP(), pred="v", **options)


# --- noise by counter ---


@pytest.mark.parametrize("solver", NOISY)
def test_rows_with_seeds_depend_on_no_neighbor(solver: str) -> None:
    """In any batch, at any place in it, with any number of threads, on any backend: the same bits."""
    x, seeds = torch.randn(6, 3, 1999), torch.tensor([5, 0, 2**61, 5, 17, 3])
    how = {"solver": solver, "steps": 4}
    whole = sample(bends(), x, seeds=seeds, **how)
    assert len(whole.unique(dim=0)) == 6
    for rows in ([0], [1, 2], [5, 3, 4]):
        assert torch.equal(sample(bends(), x[rows], seeds=seeds[rows], **how), whole[rows])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(sample(bends(), x, seeds=seeds, **how), whole)
    finally:
        torch.set_num_threads(threads)
    with use_backend("reference"):
        assert torch.equal(sample(bends(), x[:, :, :99], seeds=seeds, **how), sample_of_part(x, seeds, how))


def sample_of_part(x: Tensor, seeds: Tensor, how: dict[str, Any]) -> Tensor:
    with use_backend("cpu"):
        return sample(bends(), x[:, :, :99], seeds=seeds, **how)


def test_one_seed_numbers_the_rows() -> None:
    """More rows change nothing in those before them; equal rows get unequal noise."""
    x = torch.zeros(5, 3)
    whole = sample(bends(), x, seeds=9, solver="ancestral", steps=4)
    assert torch.equal(sample(bends(), x[:2], seeds=9, solver="ancestral", steps=4), whole[:2])
    assert len(whole.unique(dim=0)) == 5


def test_a_list_of_generators_seeds_rows() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in seeds]

    x = torch.randn(3, 2)
    whole = sample(bends(), x, generator=generators(1, 2, 3), solver="ancestral", steps=4)
    assert torch.equal(sample(bends(), x[1:], generator=generators(2, 3), solver="ancestral", steps=4), whole[1:])
    same_seed = StepNoise(torch.zeros(2, 3), generators(4, 4))(0)
    assert torch.equal(same_seed[0], same_seed[1])


def test_learned_ancestral_takes_seeds() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([x.tanh(), x.sin()], 1)

    chain, x, seeds = VPDiscrete.cosine(100), torch.randn(3, 2), torch.tensor([4, 5, 6])
    model, times = Denoiser(Wide(), chain, pred="v", variance=True), grid(chain, 5, "trailing")
    whole = learned_ancestral(model, x, times, seeds=seeds)
    assert torch.equal(learned_ancestral(model, x[1:], times, seeds=seeds[1:]), whole[1:])


@pytest.mark.parametrize("solver", ["ancestral", "edm_stochastic", "dpmpp_3m_sde"])
@pytest.mark.parametrize("store", ["states", "revolve=2"])
def test_replay_draws_the_rows_noise_again(solver: str, store: str) -> None:
    """With learnable times too, whose coefficients of the noise get gradients."""
    model, leaves = denoiser(), everything()
    leaves["times"] = grid(VP(t_min=0.02), 5).requires_grad_()
    how = {"solver": solver, "seeds": torch.tensor([7, 8])}
    same(gradients(model, leaves, "exact", store=store, **how), gradients(model, leaves, "autograd", **how))


def test_given_noise_equals_drawn_noise() -> None:
    x = torch.randn(3, 4)
    noise, how = StepNoise(x, seeds=11), {"solver": "ancestral", "steps": 6}
    given = torch.stack([noise(n) for n in range(6)])
    assert torch.equal(sample(bends(), x, noise=given, **how), sample(bends(), x, seeds=11, **how))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seeds": 1, "generator": torch.Generator()}, ValueError, "'generator': expected none, as 'seeds' is given"),
        ({"seeds": 1, "noise": torch.zeros(2, 3, 2)}, ValueError, "'seeds': expected none, as 'given' is given"),
        ({"seeds": torch.ones(2, dtype=torch.int64)}, ValueError, r"'seeds': expected shape \(3,\)"),
        ({"seeds": torch.ones(3)}, TypeError, "'seeds': expected an int or an int64 tensor"),
        ({"seeds": -1}, ValueError, "'seeds'.*got -1"),
        ({"generator": [torch.Generator()]}, ValueError, "'generator': expected 3 generators, one for each row, got 1"),
        ({"generator": 3}, TypeError, "'generator': expected a torch.Generator, or a list of them"),
    ],
)
def test_wrong_sources_of_noise(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sample(bends(), torch.zeros(3, 2), solver="ancestral", steps=2, **options)


# --- many values ---


@pytest.mark.parametrize("count", [0, 1, 8, 9, 17])
@pytest.mark.parametrize("by_row", [False, True])
def test_sums_of_any_number_of_values(count: int, by_row: bool) -> None:
    """With noise and 11 sums: more than the op takes at a time."""
    x = [leaf(2, 5, seed=i).detach() for i in range(count)]
    c = torch.randn(2 if by_row else 1, 11, count + 1, dtype=torch.float64)
    draw = Draw(StepNoise(torch.zeros(2, 5, dtype=torch.float64), seeds=4), 3)
    got = combined([*x, draw], c if by_row else c[0])
    expected = torch.einsum("bov,vbn->obn", c.expand(2, -1, -1), torch.stack([*x, draw.tensor()]))
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_more_than_eight_values_with_gradients() -> None:
    """Guided RK4: a state and eight outputs of the net."""
    model, leaves = denoiser(), everything()
    leaves["times"] = grid(VP(t_min=0.02), 3).requires_grad_()
    got = gradients(model, leaves, "exact", solver="rk4")
    same(got, gradients(model, leaves, "autograd", solver="rk4"))

    class Inside(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            w = leaves["guidance"][:, None]
            return (1 - w) * model.net(x, t, leaves["uncond"].expand(2, -1)) + w * model.net(x, t, leaves["cond"])

    given = {key: value.detach() for key, value in leaves.items()}
    alone = sample(Denoiser(Inside(), VP(), pred="v"), given["x_T"], solver="rk4", times=given["times"])
    assert torch.allclose(sample(model, given.pop("x_T"), solver="rk4", **given), alone, rtol=1e-12)


# --- truncated gradients ---


@pytest.mark.parametrize("pred", ["v", "eps"])
def test_last_k_with_guidance_that_learns(pred: str) -> None:
    """Against the sampler written out, whose early predictions are detached."""
    model, leaves, times, last = denoiser(pred), everything(), grid(VP(t_max=0.9, t_min=0.02), 5), 2
    got = gradients(model, leaves, "exact", solver="ddim", times=times, last_k=last)
    rows, x = table(model.process, times, "ddim"), leaves["x_T"]
    condition = {key: leaves[key] for key in ("cond", "uncond", "guidance")}
    for n, t in enumerate(rows.t):
        k = model.predict(rows.kind, x, t, **condition)
        x = rows.a[n] * x + rows.b[n, 0] * (k.detach() if n < len(rows.t) - last else k)
    loss = (x * torch.arange(1.0, x.numel() + 1).view_as(x)).sin().sum() + x.square().mean()
    same(got, list(torch.autograd.grad(loss, [*leaves.values(), *model.parameters()])))


# --- dtypes and devices ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "ancestral"])
def test_a_net_of_half_precision(dtype: torch.dtype, solver: str) -> None:
    """Only the net's inputs and outputs are rounded."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return half(x.to(dtype), t).float()

    torch.manual_seed(0)
    half, x, how = Net().to(dtype), torch.randn(4, DIMS, dtype=dtype), {"solver": solver, "steps": 5, "seeds": 3}
    got = sample(Denoiser(half, VP(), pred="v"), x, **how)
    assert got.dtype is dtype
    assert torch.equal(got, sample(Denoiser(Rounded(), VP(), pred="v"), x.float(), **how).to(dtype))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ancestral", "rk4"])
def test_the_meta_device(solver: str) -> None:
    model = Denoiser(Net().to("meta"), VP(), pred="v")
    y = sample(model, torch.empty(2, DIMS, device="meta"), solver=solver, steps=3)
    assert y.shape == (2, DIMS) and y.device.type == "meta"


# --- memory of the caller ---


def test_seeds_changed_during_a_run_do_not_count() -> None:
    x, seeds = torch.randn(3, 2), torch.tensor([1, 2, 3])
    how: dict[str, Any] = {"solver": "ancestral", "steps": 4}
    expected = sample(bends(), x, seeds=seeds.clone(), **how)
    how["callback"] = lambda n, _: (seeds.fill_(n), None)[1]
    assert torch.equal(sample(bends(), x, seeds=seeds, **how), expected)


@pytest.mark.parametrize("grad", [None, "autograd"])
def test_a_sample_shares_no_memory_with_its_start(grad: str | None) -> None:
    """Even if no step changes it."""
    rows = table(VP(), grid(VP(), 2, t_min=0.1), "ddim")
    still = dataclasses.replace(rows, a=torch.ones_like(rows.a), b=torch.zeros_like(rows.b))
    x = torch.ones(1, 2)
    assert torch.equal(sample(bends(), x, solver=still, grad=grad), x)
    sample(bends(), x, solver=still, grad=grad).zero_()
    assert torch.equal(x, torch.ones(1, 2))
