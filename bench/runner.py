"""Runs cases: compares every provider with its float64 oracle, then times the correct ones in turns."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from probkernels import BackendError, use_backend
from torch import Tensor

from .case import TOLERANCE, Case, Inputs, Params, Provider, Result, Run, Task, Unavailable, relative_error, to_double
from .limits import gemm_rate, limit_name, measure_limits, stream_runs
from .machine import is_noisy, load, machine_facts, software_facts
from .timing import Plan, make_timer, quantile, take_turns

SCHEMA = 1


@dataclass
class Checked:
    """A provider with its task, or the reason why it is not timed."""

    provider: Provider
    task: Task | None
    status: str
    reason: str = ""
    error: float | None = None

    def context(self) -> AbstractContextManager[Any]:
        """Forces the backend of one of our providers."""
        return nullcontext() if self.provider.backend is None else use_backend(self.provider.backend)


class Point:
    """One point of a case: its inputs, and the truth of each oracle, computed once."""

    def __init__(self, case: Case, params: Params) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(params["threads"])
        self.case, self.params = case, params
        self.device, self.dtype = torch.device(params["device"]), getattr(torch, params["dtype"])
        self.inputs = case.make(self.device, self.dtype, params)
        self.timer = make_timer(torch.device("cpu") if case.host_cost else self.device)
        self._truths: dict[Callable[[Inputs, Params], Task], Sequence[Tensor]] = {}

    @functools.cached_property
    def checked(self) -> list[Checked]:
        """Every provider that runs on this device, checked against its oracle."""
        found = [self.check(p) for p in self.case.providers if self.device.type in p.devices]
        self._truths.clear()
        return found

    def measure(self, limits: dict[str, Any]) -> list[Result]:
        """Results of every provider in every mode, and of the machine itself, timed in the same rounds."""
        return [result for mode in self.case.modes for result in self.measure_mode(mode, limits)]

    def check(self, provider: Provider) -> Checked:
        """Prepares a provider and compares its outputs with its oracle's."""
        truth = self._truth(provider.oracle)
        checked = Checked(provider, None, "ok")
        try:
            with checked.context():
                task = provider.prepare(self.inputs, self.params)
                _expect_modes(task, self.case.modes_of(provider))
                checked.error = relative_error(task.outputs(), truth)
        except (BackendError, Unavailable) as why:
            checked.status, checked.reason = "unavailable", str(why)
        except Exception as why:  # whatever a peer does, the others are still to be measured
            missing = isinstance(why, ImportError) and provider.kind != "ours"
            checked.status = "not installed" if missing else "failed"
            checked.reason = f"{type(why).__name__}: {why}"
        else:
            if checked.error <= TOLERANCE[self.dtype]:
                checked.task = task
            else:
                checked.status = "wrong"
                checked.reason = f"error {checked.error:.1e} above {TOLERANCE[self.dtype]:.0e}"
        return checked

    def _truth(self, oracle: Callable[[Inputs, Params], Task]) -> Sequence[Tensor]:
        if oracle not in self._truths:
            with use_backend("reference"):
                self._truths[oracle] = oracle(to_double(self.inputs), self.params).outputs()
        return self._truths[oracle]

    def _result(self, checked: Checked, mode: str) -> Result:
        return Result(
            case=self.case.name,
            params=self.params,
            provider=checked.provider.name,
            mode=mode,
            kind=checked.provider.kind,
            status=checked.status,
            reason=checked.reason,
            error=checked.error,
            bytes=self.case.bytes(self.params, mode),
            flops=self.case.flops(self.params, mode),
        )

    def measure_mode(self, mode: str, limits: dict[str, Any]) -> list[Result]:
        """Results of one mode. Correct providers and the machine's limits are timed in the same rounds."""
        untimed: list[Result] = []
        timed: list[tuple[Result, Plan]] = []
        for c in (c for c in self.checked if mode in self.case.modes_of(c.provider)):
            result = self._result(c, mode)
            if c.task is None:
                untimed.append(result)
                continue
            run = c.task.modes[mode]
            timed.append((result, Plan(run, self.timer, c.context)))
            if self.device.type == "cuda":
                with c.context():
                    result.peak_bytes = _peak_bytes(run)
        if traffic := self.case.bytes(self.params, mode):
            for name, run in stream_runs(traffic, self.device).items():
                result = Result(self.case.name, self.params, limit_name(name), mode, "limit", "ok", bytes=traffic)
                timed.append((result, Plan(run, self.timer)))
        take_turns([plan for _, plan in timed])
        for result, plan in timed:
            result.samples_s = [float(f"{s:.5g}") for s in plan.samples]
            result.calls_per_sample = plan.calls
            result.median_s, result.q10_s, result.q90_s = (quantile(result.samples_s, q) for q in (0.5, 0.1, 0.9))
        results = [result for result, _ in timed]
        relate(results, gemm_rate(limits, self.params["dtype"], self.params["threads"]))
        return untimed + results


def _expect_modes(task: Task, declared: Sequence[str]) -> None:
    if set(task.modes) != set(declared):
        raise ValueError(f"expected the declared modes {', '.join(declared)}, got {', '.join(task.modes)}")


def _peak_bytes(run: Run) -> int:
    prepared = () if run.setup is None else (run.setup(),)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run.run(*prepared)
    return torch.cuda.max_memory_allocated() - before


def relate(results: Sequence[Result], gemm: float) -> None:
    """Fills in, for results of one mode at one point, the share of the machine's limit and the ratios to the peers."""
    streams = [r.median_s for r in results if r.kind == "limit"]
    peers = {r.provider: r.median_s for r in results if r.kind == "peer"}
    for r in results:
        if r.kind == "limit":
            continue
        if streams:
            r.of_limit = max(min(streams), r.flops / gemm) / r.median_s
        if r.kind == "ours":
            r.faster_than = {name: seconds / r.median_s for name, seconds in peers.items()}


def run(
    cases: Sequence[Case], device: torch.device, tell: Callable[[str], None], save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Runs the cases on ``device``. ``tell`` gets a line per point, ``save`` the document after each: a run that is
    cut short leaves what it measured."""
    threads_before = torch.get_num_threads()
    points = [(case, params) for case in cases for params in case.grid(device.type)]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "noisy": False,
        "machine": machine_facts() | {"load_before": load()},
        "software": software_facts(),
        "limits": {},
        "results": [],
        "verdicts": [],
    }
    try:
        tell("measuring this machine's limits")
        document["limits"] = measure_limits(device, sorted({params["threads"] for _, params in points}))
        for k, (case, params) in enumerate(points):
            tell(f"[{k + 1}/{len(points)}] {case.name}: {describe(params)}")
            results = Point(case, params).measure(document["limits"])
            document["results"] += [asdict(r) for r in results]
            document["verdicts"] += [asdict(v) | {"case": case.name} for v in case.judge(results)]
            _note_load(document["machine"], document)
            save(document)
    finally:
        torch.set_num_threads(threads_before)
    return document


def _note_load(machine: dict[str, Any], document: dict[str, Any]) -> None:
    machine["load_after"] = load()
    document["noisy"] = is_noisy(machine["load_before"], machine["load_after"], machine["cores"])


def describe(params: Params) -> str:
    """A point in one line."""
    return " ".join(f"{name}={value}" for name, value in params.items())
