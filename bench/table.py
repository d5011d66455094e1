"""The table a benchmark prints: one line per figure, beside its floor or peer and its target."""

from __future__ import annotations

from dataclasses import dataclass

HEADINGS = ["what", "floor or peer", "ours", "ratio", "target", ""]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `met` is None if the line is only for information."""

    what: str
    floor: str
    ours: str
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        """Return the line's cells as texts."""
        told = {True: "met", False: "NOT MET", None: ""}[self.met]
        return [self.what, self.floor, self.ours, self.ratio, self.target, told]


def at_most(what: str, floor: float, ours: float, most: float) -> Line:
    """Compare seconds with a floor's: `ours` may be `most` times as long."""
    return Line(what, duration(floor), duration(ours), f"{ours / floor:.2f}", f"<= {most:g}", ours / floor <= most)


def duration(seconds: float) -> str:
    """Print seconds with three digits, as s or ms."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def rendered(lines: list[Line]) -> str:
    """Return the table as Markdown, padded so that it reads as text too."""
    table = [HEADINGS, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])
