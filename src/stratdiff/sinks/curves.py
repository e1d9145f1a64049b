"""curves.png: one run's scores and exchange fraction over training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.files import replacing
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.jsonl import NAME, read_metrics


class Curves:
    """The `Sink` that draws the picture when the run is finished."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self._directory = directory

    def rewind(self, points: int, total_step: int) -> None:
        """Nothing was written."""

    def log(self, point: LogPoint, metrics: Mapping[str, np.ndarray]) -> None:
        """The log points are read from metrics.jsonl at the end."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Draw."""
        plot_curves(read_metrics(self._directory / NAME), summary, self._directory / "curves.png")

    def close(self) -> None:
        """Nothing is open."""


def _draw(axis: Any, records: list[dict[str, Any]], key: str, color: str) -> None:
    points = [r for r in records if r.get(key) is not None]
    if not points:
        return
    steps = [r["step"] for r in points]
    values = np.array([r[key] for r in points], float)  # null becomes NaN
    if values.shape[1] > 1:
        axis.plot(steps, values, color=color, alpha=0.35, linewidth=1)
        low, high = values.min(1), values.max(1)
        axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axis.plot(steps, values.mean(1), color=color, linewidth=2, marker="o", markersize=3)


def plot_curves(records: list[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """Score offline and online (mean, seeds, their range) and the exchange fraction."""
    # Takes a second, and is needed here only. Without pyplot: its backend is the caller's choice.
    from matplotlib.figure import Figure

    base, online = ([r for r in records if r["phase"] == phase] for phase in ("base", "online"))
    figure = Figure(figsize=(11, 3.4))
    axes = figure.subplots(1, 3, width_ratios=(2, 3, 3))
    label = "normalised score" if summary["normalized"] else "return"
    _draw(axes[0], base, "score", "#555555")
    axes[0].set(title="offline", xlabel="updates", ylabel=label)
    _draw(axes[1], online, "score", "#0072B2")
    axes[1].set(title="online", xlabel="environment steps")
    mean_score = summary["dataset"]["mean_score"]
    if mean_score is not None:
        for axis in axes[:2]:
            axis.axhline(mean_score, color="#D55E00", linestyle="--", linewidth=1)
        place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        look: Any = {"xytext": (0, 3), "color": "#D55E00", "fontsize": 8}
        axes[0].annotate("data's mean episode", (0.02, mean_score), **place, **look)
    scores = [v for axis in axes[:2] for line in axis.lines for v in line.get_ydata()]
    scores = [v for v in scores if np.isfinite(v)]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    room = 0.08 * (high - low or 1.0)
    for axis in axes[:2]:
        axis.set_ylim(low - room, high + room)
    _draw(axes[2], online, "exchange_fraction", "#009E73")
    axes[2].set(title="exchange fraction", xlabel="environment steps", ylim=(0, 1))
    axes[2].axhline(0.5, color="#888888", linestyle=":", linewidth=1)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=140, format="png")
