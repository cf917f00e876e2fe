"""What errors say: the first entry that is wrong and where, a line at most, the nearest name."""

from __future__ import annotations

import ast
import hashlib
import math
import sys
from pathlib import Path

import probkernels as pk
import pytest
import torch
from probkernels._core import checks, digests
from probkernels._core.errors import BackendError


def test_what_was_given_is_described_in_a_line() -> None:
    class DataFrame:
        """A long text, as tables have."""

        def __repr__(self) -> str:
            return "1 2 3\n" * 10**5

    many: list[object] = [[1] * 10**6, ["x" * 10**6], "x" * 10**6, b"x" * 10**6, {1: "x" * 10**6}, DataFrame()]
    many += [torch.zeros(10**6).numpy(), torch.nn.Sequential(*[torch.nn.ReLU()] * 99), set(range(10**6)), None]
    for value in many:
        text = checks.describe(value)
        assert type(value).__name__ in text or "NumPy array" in text
        assert len(text) < 160, text


def test_the_first_wrong_entry_is_shown() -> None:
    x = torch.tensor([[0.0, 1.0], [torch.nan, torch.inf]])
    with pytest.raises(ValueError, match=r"f: argument 'x': expected finite numbers, got nan at \[1, 0\], and 1 more"):
        checks.finite("f", "x", x)
    checks.finite("f", "x", x[0])
    assert checks.offender(torch.tensor(3), torch.tensor(True)) == "3"


@pytest.mark.parametrize(
    ("value", "text"),
    [([0, 3, 2, 4], "2 at [2]"), ([-1, 0], "-1 at [0]"), ([0, 9, 10], "9 at [1], and 1 more"), ([0, 0, 4], "")],
)
def test_numbers_that_do_not_rise(value: list[int], text: str) -> None:
    assert checks.not_rising(torch.tensor(value), 4) == text
    assert checks.not_rising(torch.tensor([0, 1, 1]), 4, 1) == "1 at [2]"


def test_ops_show_what_is_wrong() -> None:
    pmf = torch.tensor([[0.5, 0.5], [0.5, -1.0]])
    with pytest.raises(ValueError, match=r"got -1.0 at \[1, 1\]"):
        pk.ops.quantize_cdf(pmf, precision=8)
    with pytest.raises(ValueError, match=r"got only zeros, 0.0 at \[1, 0\]"):
        pk.ops.quantize_cdf(pmf.clamp(min=0) * torch.tensor([[1.0], [0.0]]), precision=8)
    with pytest.raises(ValueError, match=r"'index': .* got 3 at \[2\]"):
        pk.ops.Selection.from_index(torch.tensor([1, 5, 3]), (10,))


def test_names_that_are_nearly_right_get_a_hint() -> None:
    with pytest.raises(ValueError, match=r"f: argument 'by': .* Hint: did you mean 'states'\?"):
        checks.one_of("f", "by", "State", ["states", "edges"])
    assert checks.nearest("nonsense", ["states"]) == "" and checks.nearest(3, ["states"]) == ""
    with (
        pytest.raises(BackendError, match=r"use_backend: 'cdua' is not a backend. Hint: did you mean 'cuda'\?"),
        pk.use_backend("cdua"),
    ):
        pass


def test_a_terminal_and_a_notebook_get_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert checks.hidden(True) and checks.hidden(False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert not checks.hidden(True) and checks.hidden(False)
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert not checks.hidden(True) and checks.hidden(False)


def test_a_log_file_gets_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    pk.codec.IntegerFlow([4] * 3, couplings=1, hidden=4).fit(torch.zeros(3, 3).long(), epochs=1)
    assert capfd.readouterr().err == ""


def test_integers_have_a_kind_and_a_range() -> None:
    assert [checks.integer("f", "n", value, 0, 3) for value in (0, 3)] == [0, 3]
    for value in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="f: argument 'n': expected a whole number, got "):
            checks.integer("f", "n", value)
    for value, least, most, text in ((0, 1, None, "a number >= 1"), (4, 0, 3, "0 to 3"), (-1, 0, 3, "0 to 3")):
        with pytest.raises(ValueError, match=f"expected {text}, got {value}"):
            checks.integer("f", "n", value, least, most)
    with pytest.raises(ValueError, match="expected a step, or None, got 0"):
        checks.integer("f", "n", 0, wanted="a step, or None")


def test_digests_are_those_that_files_hold() -> None:
    t = torch.arange(3, dtype=torch.int16)
    assert bytes(digests.raw(t)) == b"\0\0\1\0\2\0" and bytes(digests.raw(t[:0])) == b""
    assert digests.of_bytes(b"ab", digests.raw(t), size=8) == hashlib.blake2b(b"ab\0\0\1\0\2\0", digest_size=8).digest()
    assert digests.identity(b"a", b"b") == hashlib.sha256(b"ab").digest()


def test_every_bar_asks_whether_it_may_be_shown() -> None:
    """A bar that does not fills log files: tqdm's own None asks for a terminal only."""
    package = Path(pk.__file__).parent
    calls = [
        (path, call)
        for path in sorted(package.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "tqdm"
    ]
    assert len(calls) >= 8
    for path, call in calls:
        shown = [ast.unparse(word.value) for word in call.keywords if word.arg == "disable"]
        assert shown and shown[0].startswith(("checks.hidden(", "hidden(", "None")), f"{path}:{call.lineno}"


def test_positive_numbers_are_finite_unless_infinity_has_a_meaning() -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="f: argument 'x': expected a positive number"):
            checks.positive("f", "x", value)
    checks.positive("f", "x", math.inf, finite=False)
    with pytest.raises(ValueError, match="'eps': expected a positive number, got inf"):
        pk.nn.PowerNorm(4, eps=math.inf)
    with pytest.raises(ValueError, match="'factor': expected a positive number, got inf"):
        pk.nn.PowerNorm(4).rescale_nu(math.inf)
