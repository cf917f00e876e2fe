"""Rows, the report and the way files are written."""

from __future__ import annotations

import base64
import importlib.util
import json
import math

import pytest
from probkernels.reproduce import Claim, Figure, Method, Outcome, Result, Table, load
from probkernels.reproduce.harness import report

METHOD = Method("A title", "Authors & others", "What is done.")


def draw(figure: object) -> None:
    figure.subplots().plot([1, 2, 3])


def outcome(*claims: Claim, figures: tuple[Figure, ...] = ()) -> Outcome:
    table = Table("a caption", ["norm", "loss"], [["<b>", "1.0"]])
    return Outcome("fake", METHOD, Result(claims, [table], figures), 12.34, 23.45)


def test_rows_keep_the_contract() -> None:
    good, bad = Claim.above("x", 0.2, 0.1, "why"), Claim.at_most("y", math.nan, 0.1)
    rows = outcome(good, bad).rows()
    assert json.loads(json.dumps(rows, allow_nan=False)) == [
        {
            "method": "fake",
            "claim": "x",
            "measured": 0.2,
            "expected": "> 0.1",
            "holds": True,
            "seconds": 12.3,
            "cpu_seconds": 23.4,
            "note": "why",
        },
        {
            "method": "fake",
            "claim": "y",
            "measured": None,
            "expected": "≤ 0.1",
            "holds": False,
            "seconds": 12.3,
            "cpu_seconds": 23.4,
            "note": "",
        },
    ]


@pytest.mark.parametrize("measured", [-math.inf, math.nan, 0.1])
def test_above_is_strict_and_refuses_nan(measured: float) -> None:
    assert not Claim.above("x", measured, 0.1).holds


def test_at_most_includes_its_bound() -> None:
    assert Claim.at_most("x", 0.1, 0.1).holds
    assert not Claim.at_most("x", 0.11, 0.1).holds


def test_unknown_method_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"no method is named 'nonsense'.*powernorm"):
        load("nonsense")
    with pytest.raises(ValueError, match="no method"):
        load("harness")


def test_page_is_self_contained_and_escaped() -> None:
    pytest.importorskip("matplotlib")
    claims = Claim.above("a < b", 0.5, 0.1), Claim.at_most("worse", 3.0, 1.0)
    page = report.page([report.section(outcome(*claims, figures=(Figure("A plot", "See it.", draw),)))], "facts")
    assert "a &lt; b" in page and "<b>" not in page.split("<td>")[5] and "Authors &amp; others" in page
    assert page.count("✓ holds") == page.count("✗ does not hold") == 1
    assert "http:" not in page and "https:" not in page and "src=" in page
    start = page.index("base64,") + len("base64,")
    assert base64.b64decode(page[start : page.index('"', start)]).startswith(b"\x89PNG")


def test_without_matplotlib_a_sentence_stands_for_the_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    section = report.section(outcome(figures=(Figure("A plot", "See it.", draw),)))
    assert "Install matplotlib" in section and "<img" not in section
