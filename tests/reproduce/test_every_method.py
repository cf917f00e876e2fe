"""What holds of every reproduction: its folder, its jobs, its claims on made-up records, its plots."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from probkernels import reproduce
from probkernels.reproduce import Method, Progress
from probkernels.reproduce.harness import report

from tests.reproduce.made_up import MADE_UP
from tests.reproduce.support import summarize

MODULES = {"__init__", "experiment", "claims", "plots", "records"}
OPTIONAL = {"model", "peers", "queries", "cost"}


@pytest.fixture(params=reproduce.names())
def method(request: pytest.FixtureRequest) -> ModuleType:
    return reproduce.load(request.param)


def name_of(method: ModuleType) -> str:
    return method.__name__.rpartition(".")[2]


def test_every_method_has_made_up_records() -> None:
    assert sorted(MADE_UP) == reproduce.names()


def test_folders_are_alike(method: ModuleType) -> None:
    found = {path.stem for path in Path(method.__path__[0]).glob("*.py")}
    assert found >= MODULES
    assert found <= MODULES | OPTIONAL


def test_method_is_described(method: ModuleType) -> None:
    assert isinstance(method.METHOD, Method)
    assert method.METHOD.title and method.METHOD.paper and method.METHOD.experiment.endswith(".")
    assert method.run.__doc__ and method.__doc__


def test_quick_jobs_are_a_part_of_all_jobs(method: ModuleType) -> None:
    plan = getattr(method.experiment, "jobs", None) or method.experiment.recipes
    quick, full = list(plan(True)), list(plan(False))
    assert quick
    assert set(quick) < set(full)
    assert len(full) == len(set(full))


def test_claims_hold_at_the_expected_figures(method: ModuleType) -> None:
    result = summarize(method, MADE_UP[name_of(method)](False))
    assert result.claims and result.tables
    assert [claim for claim in result.claims if not claim.holds] == []
    assert all(len(row) == len(table.header) for table in result.tables for row in table.rows)


def test_claims_fail_on_worse_records(method: ModuleType) -> None:
    claims = method.claims.claims(MADE_UP[name_of(method)](True))
    assert [claim for claim in claims if claim.holds] == []


def test_plots_render(method: ModuleType) -> None:
    pytest.importorskip("matplotlib")
    figures = method.plots.figures(MADE_UP[name_of(method)](False))
    assert figures
    for figure in figures:
        assert report.png(figure).startswith(b"\x89PNG")


@pytest.mark.slow
def test_claims_hold(method: ModuleType) -> None:
    """The asserted claims, measured."""
    pytest.importorskip("sklearn")
    result = method.run(True, None, Progress())
    assert [claim for claim in result.claims if not claim.holds] == []
