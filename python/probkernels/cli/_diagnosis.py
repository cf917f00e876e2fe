"""The diagnosis of an installation, and its text."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from . import _facts, _self_test


def examine() -> dict[str, Any]:
    """The whole diagnosis, ready for JSON."""
    ops = _self_test.examine_ops()
    found = {
        "versions": _facts.versions(),
        "native": _facts.native_module(),
        "cuda": _facts.cuda(),
        "threads": _facts.threads(),
        "environment": _facts.environment(),
        "backends": _facts.backends(),
        "ops": ops,
    }
    problems = _facts.problems() + _self_test.problems(ops)
    return {"ok": not problems, "problems": problems, **found}


def text(found: dict[str, Any]) -> str:
    """The diagnosis as text for a bug report, with rich's markup."""
    lines = []
    for name in ("versions", "native", "cuda", "threads", "environment", "backends"):
        lines.append(f"[bold]{name}[/]")
        lines += [f"  {key:<12} {_say(value)}" for key, value in found[name].items()] or ["  (none set)"]
    for device in dict.fromkeys(op["device"] for op in found["ops"]):
        lines += _ops([op for op in found["ops"] if op["device"] == device], device)
    if found["ok"]:
        lines.append("[bold green]Everything that should work works.[/]")
    else:
        lines.append("[bold red]problems[/]")
        lines += [f"  {escape(problem)}" for problem in found["problems"]]
    return "\n".join(lines)


def _say(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value))


def _ops(ops: list[dict[str, Any]], device: str) -> list[str]:
    """One line per op with its backend and self-tests, then each reason for a refused backend with its ops."""
    lines = [f"[bold]ops on {device}[/]"]
    width = max(len(op["name"]) for op in ops)
    reasons: dict[tuple[str, str], list[str]] = {}
    for op in ops:
        verdicts = [f"{test['backend']} {_verdict(test['errors'])}" for test in op["self_tests"]]
        lines.append(
            f"  {op['name']:<{width}}  {op['chosen'] or 'NONE':<10} self-test: {', '.join(verdicts) or 'none'}"
        )
        for backend, reason in op["refused"].items():
            reasons.setdefault((backend, reason), []).append(op["name"])
    for (backend, reason), names in reasons.items():
        whose = "" if len(names) == len(ops) else f" ({', '.join(names)})"
        lines.append(f"  not {backend}: {escape(reason)}{whose}")
    return lines


def _verdict(errors: list[str]) -> str:
    return "[red]FAILED[/]" if errors else "[green]ok[/]"
