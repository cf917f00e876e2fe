"""Derives what the site lists: pages of ops and methods from their folders, the table of methods from METHOD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "pages"
FOLDERS = ("ops", "methods")
MARK = "<!-- methods -->"


def title(page: Path) -> str:
    """The first heading."""
    return next(line[2:].strip() for line in page.read_text().splitlines() if line.startswith("# "))


def listing(folder: str) -> list[dict[str, str]]:
    """Navigation entries of a folder, in the order of their titles."""
    pages = sorted((PAGES / folder).glob("*.md"), key=lambda page: title(page).lower())
    return [{title(page): f"{folder}/{page.name}"} for page in pages]


def methods_table() -> str:
    """One row a method: its page, its paper, what is done."""
    from probkernels import reproduce

    rows = []
    for name in reproduce.names():
        method = reproduce.load(name).METHOD
        rows.append(f"| [{name}](methods/{name}.md) | {method.title}. {method.paper} | {method.experiment} |")
    return "\n".join(["| method | paper | experiment |", "|---|---|---|", *rows])


def on_config(config: Any) -> Any:
    """Fills in the sections of the navigation that are named after a folder."""
    for entry in config["nav"]:
        if isinstance(entry, dict):
            for section, content in entry.items():
                if content in [f"{folder}/" for folder in FOLDERS]:
                    entry[section] = listing(content.rstrip("/"))
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the table of methods where its mark is."""
    return markdown.replace(MARK, methods_table()) if MARK in markdown else markdown
