"""Metrics batch by batch: equal to the functions on all samples, on one process and on two."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from probkernels import uncertainty as un
from torch import Tensor

WORLD = 2
PRELOADED = ["probkernels.uncertainty", "pytest", "torch.distributed"]
MODES = ("auto", "class_wise")
N, CUTS = 60, (0, 7, 7, 31, 60)  # batches of unequal sizes, one of them empty

# Each class with its options, the function, and the data that both take.
BINS = [(un.ECE, un.ece), (un.MCE, un.mce), (un.DebiasedECE, un.debiased_ece), (un.Reliability, un.reliability)]
EVENTS = [(un.KS, un.ks), (un.SmoothECE, un.smooth_ece)]
CASES: list[tuple[Any, Any, dict[str, Any], str]] = [
    *((c, f, {"bins": 5, "equal": e, "mode": m}, "classes") for c, f in BINS for e in ("width", "mass") for m in MODES),
    *((c, f, {"mode": m}, "classes") for c, f in EVENTS for m in MODES),
    *((c, f, {}, "two") for c, f in [*BINS, *EVENTS]),
    *((c, f, {}, data) for c, f in [(un.NLL, un.nll), (un.Brier, un.brier)] for data in ("two", "classes")),
    *(
        (c, f, {"average": "none"}, "classes")
        for c, f in [(un.AUROC, un.auroc), (un.AveragePrecision, un.average_precision)]
    ),
    (un.AUROC, un.auroc, {}, "two"),
    (un.AveragePrecision, un.average_precision, {}, "two"),
    (un.ECE, un.ece, {"weighted": False}, "two"),
    (un.DebiasedECE, un.debiased_ece, {"norm": "l1", "bins": 3}, "two"),
    (un.MSEp, un.mse_p, {}, "truth"),
    (un.KLp, un.kl_p, {}, "truth"),
    (un.KLp, un.kl_p, {"reverse": True}, "truth"),
]
NAMES = [" ".join([f.__name__, *map(str, options.values()), data]) for _, f, options, data in CASES]


def samples(data: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(N, 3, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 3, (N,), generator=generator)
    weight = torch.rand(N, generator=generator, dtype=torch.float64)
    if data == "two":
        return probs[:, 0], labels == 0, weight
    return probs, probs.roll(1, 0) if data == "truth" else labels, weight


def batches(data: str) -> list[tuple[Tensor, ...]]:
    return [tuple(x[start:end] for x in samples(data)) for start, end in itertools.pairwise(CUTS)]


def same(got: Any, expected: Any) -> None:
    got, expected = (tuple(x) if isinstance(x, tuple) else x for x in (got, expected))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("cls", "function", "options", "data"), CASES, ids=NAMES)
def test_batches_equal_all_samples(cls: Any, function: Any, options: dict[str, Any], data: str) -> None:
    metric, resumed = cls(**options), cls(**options)
    for batch in batches(data)[:2]:
        metric.update(*batch)
    resumed.load_state_dict(metric.state_dict())
    for batch in batches(data)[2:]:
        resumed.update(*batch)
    same(resumed.compute(), function(*samples(data), **options))
    same(metric.compute(), function(*batches(data)[0], **options))  # the copy did not change it
    resumed.reset()
    assert resumed.state_dict() == {}
    with pytest.raises(ValueError, match=r"compute: there are no samples yet. Hint: call update\(\) first"):
        resumed.compute()
    with pytest.raises(ValueError, match="'state_dict': expected the state of a metric with equal options"):
        resumed.load_state_dict({"state": torch.zeros(7)})
    with pytest.raises(ValueError, match="got the key 'stat'"):
        resumed.load_state_dict({"stat": torch.zeros(7)})


def test_batches_of_other_classes_are_refused() -> None:
    for metric in (un.AUROC(), un.ECE(mode="class_wise"), un.ECE(mode="class_wise", equal="mass")):
        metric.update(torch.full((2, 3), 1 / 3), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="all batches must have the same number of classes"):
            metric.update(torch.full((2, 4), 0.25), torch.tensor([0, 1]))


def test_float32_batches_are_summed_in_float64() -> None:
    metric = un.Brier()
    for _ in range(3):
        metric.update(torch.full((1000,), 0.1), torch.zeros(1000, dtype=torch.long))
    assert metric.compute().dtype is torch.float64
    assert metric.compute().item() == pytest.approx(0.01, rel=1e-6)


# --- two processes ---


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found: dict[str, Any] = {}
    alone_group = [dist.new_group([r]) for r in range(WORLD)][rank]
    for name, (cls, _, options, data) in zip(NAMES, CASES, strict=True):
        metric, empty = cls(**options), cls(**options)
        for batch in batches(data)[rank::WORLD]:
            metric.update(*batch)
        if rank == 1:
            empty.update(*samples(data))
        found[name] = [metric.compute(), empty.compute()]  # the second one has samples on one rank only
        for sync in (False, alone_group):
            metric.sync = sync
            found[name].append(metric.compute())
        found[name] = [tuple(x) if isinstance(x, tuple) else x for x in found[name]]
    try:
        un.KS().compute()
    except ValueError as error:
        found["error"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_on_all_samples() -> None:
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_worker, args=(folder,), nprocs=WORLD, start_method="forkserver")
        results = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]
    for rank, result in enumerate(results):
        for name, (_, function, options, data) in zip(NAMES, CASES, strict=True):
            expected = function(*samples(data), **options)
            part = [torch.cat(parts) for parts in zip(*batches(data)[rank::WORLD], strict=True)]
            own = function(*part, **options)
            for got, wanted in zip(result[name], (expected, expected, own, own), strict=True):
                same(got, wanted)
        assert "no samples yet" in result["error"]
