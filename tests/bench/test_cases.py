"""The cases: the official baseline's own numbers, every provider against its oracle, and the overhead budget."""

from __future__ import annotations

import pytest
import torch
from probkernels.bench.case import Result, Run
from probkernels.bench.cases import get, names, overhead, power_norm, sampled_matmul
from probkernels.bench.cases._power_norm_official import OfficialPowerNorm
from probkernels.bench.runner import Point
from probkernels.bench.timing import WallTimer
from torch import Tensor


def official_inputs(k: int) -> tuple[Tensor, Tensor]:
    t, b, c = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, 2, 4)), indexing="ij")
    x = torch.sin(1 + 0.7 * t + 1.3 * b + 0.5 * c + 0.9 * k) * (1 + 0.5 * c)
    return x.requires_grad_(), torch.cos(0.3 + 0.4 * t - 0.6 * b + 0.8 * c + 0.5 * k)


@pytest.mark.parametrize(
    ("masked", "phi", "ema", "sums"),
    [
        (False, (0.706386, 1.293558, 0.855487, 1.144496), (0.534952, 0.591548, 1.250445, 1.012981),
         (12.475494, 8.719161, 10.942820, 14.121160)),
        (True, (0.714584, 1.285354, 0.730051, 1.269932), (0.733741, 0.856860, 1.379957, 1.152455),
         (10.939600, 6.515885, 10.057794, 13.523378)),
    ],
    ids=["plain", "masked"],
)  # fmt: skip
def test_the_official_baseline_gives_the_official_numbers(
    masked: bool, phi: tuple[float, ...], ema: tuple[float, ...], sums: tuple[float, ...]
) -> None:
    """Recorded from the authors' module after four steps, warm-up among them."""
    module = OfficialPowerNorm(4, groups=2, warmup_iters=2).double()
    with torch.no_grad():
        module.weight += 0.1 * torch.arange(4)
        module.bias += 0.05 * torch.arange(4)
    pad_mask = None
    if masked:
        pad_mask = torch.zeros(2, 3, dtype=torch.bool)
        pad_mask[1, 2] = True
    found = []
    for k in range(1, 5):
        x, grad_y = official_inputs(k)
        if masked:
            grad_y[2, 1] = 0
        module(x, pad_mask).backward(grad_y)
        found.append(x.grad.abs().sum().item())
    assert found == pytest.approx(sums, abs=2e-6)
    assert module.running_phi.flatten().tolist() == pytest.approx(phi, abs=2e-6)
    assert module.ema_gz.flatten().tolist() == pytest.approx(ema, abs=2e-6)


def small_point(groups: int | None, mask: bool, dtype: str = "float32") -> Point:
    params = {"device": "cpu", "dtype": dtype, "threads": 1, "rows": 96, "features": 40}
    return Point(power_norm.CASE, params | {"groups": groups, "mask": mask})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("groups", "mask"), [(None, False), (8, False), (8, True), (None, True)])
def test_every_provider_of_power_norm_is_right(groups: int | None, mask: bool, dtype: str) -> None:
    point = small_point(groups, mask, dtype)
    for provider in power_norm.CASE.providers:
        if "cpu" in provider.devices and provider.name != "official_compiled":
            checked = point.check(provider)
            assert checked.status == "ok", f"{provider.name}: {checked.reason}"


@pytest.mark.slow
def test_the_compiled_official_baseline_is_right() -> None:
    provider = next(p for p in power_norm.CASE.providers if p.name == "official_compiled")
    for groups, mask in [(None, False), (8, True)]:
        checked = small_point(groups, mask).check(provider)
        assert checked.status == "ok", checked.reason


@pytest.mark.parametrize("density", [0.01, 0.2])
def test_every_provider_of_sampled_matmul_is_right(density: float) -> None:
    size = {"tokens": 50, "rows": 40, "columns": 60}
    point = Point(sampled_matmul.CASE, {"device": "cpu", "dtype": "float32", "threads": 1, "density": density, **size})
    for provider in sampled_matmul.CASE.providers:
        if "cpu" in provider.devices:
            checked = point.check(provider)
            assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_costs_and_grids_of_sampled_matmul() -> None:
    params = {"dtype": "bfloat16", "tokens": 10, "rows": 4, "columns": 6, "density": 0.25}
    assert sampled_matmul.traffic(params, "values") == 2 * 10 * 10 + 4 * 6
    assert sampled_matmul.flops(params, "values") == 2 * 10 * 6
    assert {p["density"] for p in sampled_matmul.grid("cpu")} == {0.001, 0.0058, 0.058, 0.2}
    assert {p["dtype"] for p in sampled_matmul.grid("cuda")} == {"bfloat16", "float32"}


def test_bytes_are_two_three_and_five_passes() -> None:
    params = {"dtype": "bfloat16", "rows": 7, "features": 3}
    assert [power_norm.traffic(params, mode) for mode in ("fwd", "bwd", "fwd+bwd")] == [84, 126, 210]


def test_grids() -> None:
    cpu = power_norm.grid("cpu")
    assert {(p["rows"], p["features"]) for p in cpu} == {(2048, 512), (8192, 1024), (65536, 64), (512, 8192)}
    assert {(p["groups"], p["mask"]) for p in cpu} == {(None, False), (8, False), (8, True)}
    assert 1 in {p["threads"] for p in cpu}
    big = {"device": "cuda", "dtype": "bfloat16", "rows": 8192, "features": 4096, "groups": None, "mask": False}
    assert any(big.items() <= p.items() for p in power_norm.grid("cuda"))
    assert [p["device"] for p in overhead.grid("cuda")] == ["cpu", "cuda"]
    assert {"overhead", "power_norm"} <= set(names()) and all(get(name).name == name for name in names())


def test_verdicts_of_power_norm() -> None:
    params = {"device": "cpu", "dtype": "float32", "threads": 1, "rows": 2048, "features": 512}
    params |= {"groups": None, "mask": False}
    ours = Result("power_norm", params, "ours_cpu", "fwd+bwd", "ours", "ok", of_limit=0.5)
    kernel = Result("power_norm", params, "ours_kernel", "fwd+bwd", "ours", "ok", of_limit=0.7)
    ours.faster_than = {"official_eager": 30.0, "layer_norm": 1.2}
    kernel.faster_than = {"official_eager": 50.0, "layer_norm": 1.5}
    assert [(v.measured, v.holds) for v in power_norm.judge([ours, kernel])] == [(50, True), (1.5, False), (0.7, True)]
    assert power_norm.judge([Result("power_norm", params, "ours_cpu", "all", "ours", "failed")]) == []


def test_every_provider_of_overhead_is_right() -> None:
    point = Point(overhead.CASE, overhead.grid("cpu")[0])
    for provider in overhead.CASE.providers:
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def no_grad_run(point: Point, name: str) -> Run:
    provider = next(p for p in overhead.CASE.providers if p.name == name)
    return provider.prepare(point.inputs, point.params).modes["no grad"]


def test_overhead_budget() -> None:
    """One call of our op costs at most two of a two-op ATen expression, in minima of many short turns: other work on
    the machine cannot make a minimum smaller, and seldom disturbs all of them."""
    point = Point(overhead.CASE, overhead.grid("cpu")[0])
    results = [
        Result("overhead", point.params, name, "no grad", kind, "ok")
        for name, kind in (("ours_op", "ours"), ("aten_two", "peer"))
    ]
    runs = [no_grad_run(point, r.provider) for r in results]
    for _ in range(300):
        for result, run in zip(results, runs, strict=True):
            result.samples_s.append(WallTimer().sample(run, 50))
    (verdict,) = overhead.judge(results)
    assert verdict.holds, f"{verdict.measured:.2f} two-op ATen expressions a call, budget {overhead.BUDGET}"
