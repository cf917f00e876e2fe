"""Jobs side by side in processes: order, progress, failures, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from probkernels.reproduce.harness.workers import Workers, run_jobs

Advance = Callable[[float], None]


def draw(seed: int, advance: Advance) -> tuple[int, set[signal.Signals], torch.Tensor]:
    torch.manual_seed(seed)
    advance(seed)
    return torch.get_num_threads(), signal.pthread_sigmask(signal.SIG_BLOCK, ()), torch.randn(3)


def fail(seed: int, advance: Advance) -> None:
    raise ValueError(f"bad seed {seed}")


def die(seed: int, advance: Advance) -> None:
    os._exit(7)


def sleep(seconds: float, advance: Advance) -> None:
    advance(os.getpid())
    time.sleep(seconds)


def process_of(seed: int, advance: Advance) -> int:
    return os.getpid()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_give_results_in_order_and_ignore_ctrl_c() -> None:
    moved: list[float] = []
    results = run_jobs(draw, [(seed,) for seed in (3, 1, 2)], moved.append)
    assert sorted(moved) == [1, 2, 3]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for seed, (threads, blocked, values) in zip((3, 1, 2), results, strict=True):
        assert threads == 1
        assert signal.SIGINT in blocked
        assert torch.equal(values, torch.randn(3, generator=torch.Generator().manual_seed(seed)))


def test_workers_are_used_again() -> None:
    with Workers(2) as workers:
        before = workers.run(process_of, [(0,), (1,)], print)
        after = workers.run(process_of, [(0,), (1,), (2,)], print)
    assert set(after) <= set(before)
    assert not any(alive(pid) for pid in before)


def test_nothing_to_do() -> None:
    assert run_jobs(draw, [], print) == []


def test_failure_brings_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"job \(5,\) failed:(.|\n)*ValueError: bad seed 5"):
        run_jobs(fail, [(5,)], print)


def test_death_is_noticed() -> None:
    with pytest.raises(RuntimeError, match=r"the process of job \(5,\) died"):
        run_jobs(die, [(5,)], print)


def test_ctrl_c_is_answered_by_the_parent_alone() -> None:
    program = (
        "import signal\n"
        "from tests.reproduce.test_workers import run_jobs, sleep\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "    try:\n"
        "        run_jobs(sleep, [(60.0,)], lambda pid: print(int(pid), flush=True))\n"
        "    except KeyboardInterrupt:\n"
        "        print('clean')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    )
    pid = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert output.splitlines()[-1] == "clean"
    assert errors == ""
    assert not alive(pid)
