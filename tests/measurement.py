"""Measurement files as PyMeasure writes them, made to order."""

from __future__ import annotations

from dataclasses import dataclass, replace

BROKEN = b"no measurement at all\r\n1,2,3\r\n"
"""Bytes that every reader of measurement files refuses."""

COLUMNS = "t (s),I (A),VL (V),Plate T (degC),Ambient T (degC),Clock (ms)"


@dataclass(frozen=True)
class Measurement:
    """One ITS run: `start` in epoch seconds (None: the header has none), `sample` sets its currents apart."""

    start: float | None = 1758632155.25
    chip: int = 72
    rows: int = 3
    sample: int = 0
    end: str = "\r\n"
    tail: str = ""

    def but(self, **changes: object) -> Measurement:
        """Change some of it."""
        return replace(self, **changes)  # type: ignore[arg-type]  # the fields' own names

    @property
    def data(self) -> bytes:
        """The file's bytes. One more row only adds bytes at the end."""
        lines = [
            "#Procedure: <laser_setup.procedures.It.It>",
            "#Parameters:",
            "#\tChip group name: Alisson",
            f"#\tChip number: {self.chip}",
            "#\tLaser voltage: 1.4 V",
            "#\tVG: -5.19 V",
            *(["#Metadata:", f"#\tStart time: {self.start}"] if self.start is not None else []),
            "#Data:",
            COLUMNS,
            *(f"{0.5 * row},{3.1e-05 + 1e-7 * (row + 10 * self.sample)},1.4,nan,nan,nan" for row in range(self.rows)),
        ]
        return (self.end.join(lines) + self.end + self.tail).encode("utf-8")
