"""Runs the independent jobs of an experiment in parallel, each in its own process with one torch thread.

The result of a job then does not depend on how many run at once, and small models train fastest on one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch
from tqdm import tqdm

Run = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]], Callable[[float], None]], list[Any]]  # of run_jobs

MOST_PROCESSES = 8  # each holds its own torch, some 300 MB


class Workers:
    """Processes that run jobs as long as the ``with`` block lasts. Each imports torch once, which takes seconds.

    Args:
        most: the number of jobs that may run at once; there are no more processes than that, than CPUs, or than 8.
    """

    def __init__(self, most: int) -> None:
        self._processes = _start(min(most, len(os.sched_getaffinity(0)), MOST_PROCESSES))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:  # also after Ctrl-C
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()

    def run(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], advance: Callable[[float], None]
    ) -> list[Any]:
        """Runs ``function(*job, advance)`` for every job; see :func:`run_jobs`. After an error, leave the block."""
        results: list[Any] = [None] * len(jobs)
        waiting = iter(enumerate(jobs))
        busy: dict[Connection, int] = {}

        def give(connection: Connection) -> None:
            for index, job in waiting:
                busy[connection] = index
                _send(connection, (function, job))
                return

        for connection in self._processes:
            give(connection)
        while busy:
            for ready in wait(list(busy)):
                connection = cast(Connection, ready)
                kind, value = _receive(connection, jobs[busy[connection]])
                if kind == "advance":
                    advance(value)
                else:
                    results[busy.pop(connection)] = value
                    give(connection)
        return results


def run_jobs(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], advance: Callable[[float], None]
) -> list[Any]:
    """Runs ``function(*job, advance)`` for every job in spawned processes.

    Args:
        function: a function that can be imported by name. Its calls ``advance(amount)`` reach the caller's ``advance``.
        jobs: picklable arguments of each job.
        advance: called in this process as the jobs make progress.

    Returns:
        The results in the order of ``jobs``.

    Raises:
        RuntimeError: a job raised (the message has its traceback), or its process died.
    """
    with Workers(len(jobs)) as workers:
        return workers.run(function, jobs, advance)


def _start(count: int) -> dict[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")  # a forked child would inherit torch's dead thread pools
    workers: dict[Connection, BaseProcess] = {}
    resource_tracker.ensure_running()  # it would start with the first worker, and unblock the signal
    # Ctrl-C reaches the whole process group. Workers inherit the blocked signal: the parent alone answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return workers


def _send(connection: Connection, message: Any) -> None:
    # Not connection.send: torch teaches it to share a tensor's memory, which ends with the process that made it.
    connection.send_bytes(pickle.dumps(message))


def _receive(connection: Connection, job: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        kind, value = pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionResetError):
        raise RuntimeError(f"the process of job {job} died; perhaps the machine ran out of memory") from None
    if kind == "failed":
        raise RuntimeError(f"job {job} failed:\n{value}")
    return kind, value


def _work(connection: Connection) -> None:
    """The main function of a worker: receives jobs, sends progress and results, until the parent closes."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which the end of this process would leave behind
    try:
        while True:
            message = connection.recv_bytes()
            try:
                function, job = pickle.loads(message)
                reply = "done", function(*job, lambda amount: _send(connection, ("advance", amount)))
            except Exception:
                reply = "failed", traceback.format_exc()
            _send(connection, reply)
    except (EOFError, OSError):
        return
