"""The report: one self-contained HTML file with plots."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..._core import outputs
from .method import Claim, Figure, Outcome, Table
from .style import PLOT_STYLE

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1.5rem; }
p.paper, figcaption, caption, footer, .note { color: #666; font-size: 0.88rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.35rem 0.7rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
th { border-bottom: 2px solid #bbb; } caption { caption-side: bottom; text-align: left; padding-top: 0.4rem; }
.yes, .no { white-space: nowrap; font-weight: 600; } .yes { color: #176d3a; } .no { color: #b3261e; }
figure { margin: 2rem 0; } figure img { width: 100%; } figcaption b { color: #222; }
"""


def page(outcomes: Sequence[str], facts: str) -> str:
    """The report from its sections and one line about the software."""
    body = "".join(outcomes) or "<p>No experiment has finished yet.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>probkernels: reproductions</title><style>{STYLE}</style></head><body>"
        "<h1>What the papers claim, measured here</h1>"
        "<p>Each experiment trains with this library's kernels on real data, with fixed seeds.</p>"
        f"{body}<footer><p>{escape(facts)}</p></footer></body></html>\n"
    )


def section(outcome: Outcome) -> str:
    """The part of the report about one method, plots drawn."""
    method, result = outcome.method, outcome.result
    command = f"<code>python -m probkernels reproduce {escape(outcome.name)}</code>"
    return (
        f'<h2 id="{escape(outcome.name)}">{escape(method.title)}</h2><p class="paper">{escape(method.paper)}</p>'
        f"<p>{escape(method.experiment)}</p>{_claims(result.claims)}"
        f"{''.join(map(_table, result.tables))}{_figures(result.figures)}"
        f'<p class="note">{outcome.seconds:.0f} s, {outcome.cpu_seconds:.0f} CPU s: {command}</p>'
    )


def _claims(claims: Sequence[Claim]) -> str:
    rows = []
    for claim in claims:
        verdict = '<td class="yes">✓ holds</td>' if claim.holds else '<td class="no">✗ does not hold</td>'
        note = f'<div class="note">{escape(claim.note)}</div>' if claim.note else ""
        rows.append(
            f"<tr><td>{escape(claim.text)}{note}</td><td>{claim.measured:.4g}</td>"
            f"<td>{escape(claim.expected)}</td>{verdict}</tr>"
        )
    header = "<tr><th>claim</th><th>measured</th><th>expected</th><th></th></tr>"
    return f"<table>{header}{''.join(rows)}</table>"


def _table(table: Table) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{escape(table.caption)}</caption><tr>{header}</tr>{rows}</table>"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    if importlib.util.find_spec("matplotlib") is None:
        return '<p class="note">Install matplotlib to see this experiment\'s plots here.</p>'
    parts = []
    for figure in figures:
        source = "data:image/png;base64," + base64.b64encode(png(figure)).decode()
        caption = f"<b>{escape(figure.title)}.</b> {escape(figure.caption)}"
        parts.append(
            f'<figure><img src="{source}" alt="{escape(figure.title)}"><figcaption>{caption}</figcaption></figure>'
        )
    return "".join(parts)


def png(figure: Figure) -> bytes:
    """The drawn figure; needs matplotlib."""
    import matplotlib
    import matplotlib.figure

    with matplotlib.rc_context(PLOT_STYLE):  # not pyplot: it would keep the figure and look for a display
        canvas = matplotlib.figure.Figure(figsize=figure.inches, layout="constrained")
        figure.draw(canvas)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def write(path: Path, text: str) -> None:
    """Writes a file atomically."""
    if not outputs.is_stream(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    outputs.write_bytes(path, text.encode())
