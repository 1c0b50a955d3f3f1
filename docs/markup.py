"""What the generated pages have in common: their first line, cells and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

HEAD = "<!-- Written by docs/generate.py from the code; edit that instead. -->\n\n"
# The user's own recipes and sites do not belong on these pages.
NO_USER = {"HOME": "/nonexistent"}


def cell(text: str) -> str:
    """A text that can stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; none for one without rows. Cells are written as they are."""
    written = [f"| {' | '.join(row)} |" for row in rows]
    if written:
        yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
        yield from written
        yield ""
