"""Verdicts on how many times faster than a peer a function of ours is."""

from __future__ import annotations

from collections.abc import Sequence

from .case import Result, Verdict


def times_faster(results: Sequence[Result], peer: str, least: float, where: str) -> list[Verdict]:
    """A verdict for each result of ours that was measured beside the peer; ``where`` names the point."""
    return [
        Verdict(f"{r.provider}, {where}: times faster than {peer}", r.faster_than[peer], f">= {least:g}", holds)
        for r in results
        if r.kind == "ours" and peer in r.faster_than
        for holds in [r.faster_than[peer] >= least]
    ]
