"""The two plots of `docs/performance.md`: throughput against workers, and cost of a run against archive size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # after the backend is chosen

INK = "#24456b"
Points = Sequence[tuple[float, float]]


def draw(series: Mapping[str, Points], folder: Path) -> None:
    """Write `throughput.png` and `growth.png` into `folder`, each when its case ran."""
    folder.mkdir(parents=True, exist_ok=True)
    if "workers" in series:
        _throughput(series["workers"], folder / "throughput.png")
    if "growth" in series:
        _growth(series["growth"], folder / "growth.png")


def _throughput(points: Points, path: Path) -> None:
    figure, axes = _axes("Backfill: throughput over workers", f"workers ({os.cpu_count()} CPUs)", "files / s")
    workers, rates = zip(*points, strict=True)
    axes.plot(workers, rates, "o-", color=INK)
    axes.set_xticks(workers)
    axes.set_ylim(0, 1.15 * max(rates))
    _save(figure, path)


def _growth(points: Points, path: Path) -> None:
    figure, axes = _axes("Backfill: cost of a run over the archive's size", "runs in the archive", "ms a run")
    counts, costs = zip(*points, strict=True)
    mean = sum(costs) / len(costs)
    axes.axhspan(0.95 * mean, 1.05 * mean, color=INK, alpha=0.1, label="10 % wide")
    axes.semilogx(counts, costs, "o-", color=INK)
    axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, 1.3 * max(costs))
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
