"""``pytest bench -n 0``: every case through pytest-benchmark, which prints, stores, compares and plots the figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch
from probkernels.bench import cases
from probkernels.bench.entries import entries
from probkernels.bench.report import point_table
from probkernels.bench.runner import describe
from probkernels.bench.session import Session, claim_points, replay

SESSION = pytest.StashKey[Session]()
CLAIMS = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("probkernels")
    group.addoption("--case", action="append", metavar="NAME", help="only this case; may be given more than once")
    group.addoption("--no-op-tests", action="store_true", help="report speeds without running the tests of the ops")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("bench: pytest-benchmark is missing. Hint: pip install 'probkernels[bench]'")
    try:
        chosen = [cases.get(name) for name in config.getoption("--case", None) or cases.names()]
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config.stash[SESSION] = Session(entries(chosen, device))
    config.stash[CLAIMS] = claim_points(chosen, device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames:
        found = metafunc.config.stash[SESSION].entries
        parameters = [
            pytest.param(name, marks=pytest.mark.benchmark(group=entry.group, timer=replay))
            for name, entry in found.items()
        ]
        metafunc.parametrize("entry", parameters, ids=list(found))
    if "claim" in metafunc.fixturenames:
        metafunc.parametrize("claim", list(metafunc.config.stash[CLAIMS]))


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """The measurements; each point is taken once."""
    threads = torch.get_num_threads()
    yield pytestconfig.stash[SESSION]
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def claims(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The points about which something is claimed, by name."""
    return pytestconfig.stash[CLAIMS]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["node"] = ""  # no host name in what is published
    for changing in ("hz_actual", "hz_actual_friendly"):  # differs in every run of one machine
        machine_info["cpu"].pop(changing, None)
    machine_info["probkernels"] = config.stash[SESSION].machine


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    output_json["probkernels"] = config.stash[SESSION].document()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What pytest-benchmark's tables lack: shares of the limit, ratios to the peers, who was not timed and why."""
    found = config.stash[SESSION]
    if not found.results:
        return
    terminalreporter.section("share of the measured limit; peer's time over ours")
    points: dict[str, list[dict[str, Any]]] = {}
    for rows in found.results.values():
        points.setdefault(f"{rows[0].case}: {describe(rows[0].params)}", []).extend(map(asdict, rows))
    for title, rows in points.items():
        terminalreporter.write_line(f"\n{title}\n\n{point_table(rows)}")
    if found.document()["noisy"]:
        terminalreporter.write_line("\nNOISY: more was running than there are cores")
