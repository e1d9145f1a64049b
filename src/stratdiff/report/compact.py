"""The compact form of a run: JSON that holds what the report needs, a few kilobytes a seed.

A run directory is cut down to it before it is read, so that a report of directories and one of the
`results.json` that it wrote are the same.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from stratdiff.config import translated
from stratdiff.report.runs import LeftOut, Run, Series
from stratdiff.report.titles import clean
from stratdiff.splits import QUANTILES

FORMAT = "stratdiff results 1"
POINTS = 40  # of a diagnostic over the online phase

ORIGINS = ("offline", "online")
DIAGNOSTICS = ("exchange_fraction", "alignment_auc", "alignment_threshold", "q_mean")
_FANS = [f"alignment_q{q}_{origin}" for origin in ORIGINS for q in QUANTILES]
_SPREADS = [f"alignment_{kind}_{origin}" for origin in ORIGINS for kind in ("mean", "std")]
_ABOUT = ["dataset", "environment", "seconds", "updates_per_second", "online_seconds"]
_ABOUT += ["versions", "device", "git_revision"]

_KEPT = [f.name for f in dataclasses.fields(Run) if f.name not in ("seeds", "origin")]


def compact(
    config: dict[str, Any], summary: dict[str, Any], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is kept of config.json, summary.json and the log points of metrics.jsonl."""
    n = len(config["seeds"])
    evaluations = {}
    for phase in ("base", "online"):
        scored = [r for r in records if r["phase"] == phase and "score" in r]
        if scored:
            columns = {key: [r[key] for r in scored] for key in ("step", "score", "return")}
            evaluations[phase] = columns
    logged = [r for r in records if r["phase"] == "online" and "critic_loss" in r]
    have = {key for r in logged for key in r}
    spread = _FANS if have.issuperset(_FANS) else _SPREADS
    kept = [key for key in (*DIAGNOSTICS, *spread) if key in have]
    parts = [p for p in np.array_split(np.arange(len(logged)), POINTS) if len(p)] if kept else []
    diagnostics: dict[str, Any] = {"step": [logged[p[-1]]["step"] for p in parts]}
    for key in kept:
        values = _per_seed([r.get(key, [None] * n) for r in logged], n)
        diagnostics[key] = [[_rounded(v) for v in column_means(values[p])] for p in parts]
    return {
        "config": config,
        "normalized": summary["normalized"],
        "before": summary["score"]["before"]["per_seed"],
        "after": summary["score"]["after"]["per_seed"],
        "about": {key: summary[key] for key in _ABOUT if key in summary},
        "evaluations": evaluations,
        "diagnostics": diagnostics,
    }


def from_compact(data: dict[str, Any]) -> Run:
    """A run from JSON that may hold anything; without a `variant` it has the name "?".

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not of the compact form.
    """
    config, about = translated(data["config"])[0], data["about"]
    seeds = config["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int for s in seeds):
        raise ValueError("seeds must be whole numbers")
    n = len(seeds)
    for key in ("base", "score"):
        clean(config[key])
    if not isinstance(about, dict) or not isinstance(data["evaluations"], dict):
        raise ValueError("about and evaluations must be objects")
    for key in ("seconds", "updates_per_second", "versions", "dataset"):
        if not isinstance(about.setdefault(key, {}), dict):
            raise ValueError(f"{key} must be an object")
    for key in ("seconds", "updates_per_second"):
        if any(type(v) not in (int, float) for v in about[key].values()):
            raise ValueError(f"{key} must be numbers")
    mean_score = about["dataset"].get("mean_score")
    if type(mean_score) not in (int, float, type(None)):
        raise ValueError("mean_score must be a number")
    diagnostics = data["diagnostics"]
    known = [k for k in (*DIAGNOSTICS, *_FANS, *_SPREADS) if k in diagnostics]
    return Run(
        task=clean(config["dataset"]),  # short once all runs are known
        variant=clean(data.get("variant", "?")),
        config=config,
        seeds=tuple(seeds),
        normalized=bool(data["normalized"]),
        before=_per_seed([data["before"]], n)[0],
        after=_per_seed([data["after"]], n)[0],
        about=about,
        evaluations={
            phase: _series(data["evaluations"][phase], n, ("score", "return"))
            for phase in ("base", "online")
            if phase in data["evaluations"]
        },
        diagnostics=_series(diagnostics, n, known),
    )


def to_json(runs: Sequence[Run], left_out: Sequence[LeftOut]) -> str:
    """The compact results file; a line holds one run."""

    lines = [
        json.dumps(_plain({key: getattr(run, key) for key in _KEPT}), separators=(",", ":"))
        for run in runs
    ]
    missing = [json.dumps(dataclasses.asdict(x)) for x in left_out]
    return (
        f'{{"format": {json.dumps(FORMAT)},\n"left_out": [\n'
        + ",\n".join(missing)
        + '\n],\n"runs": [\n'
        + ",\n".join(lines)
        + "\n]}\n"
    )


def column_means(values: Float[np.ndarray, "points seeds"]) -> list[float]:
    """Mean of each seed's finite numbers; NaN where there are none."""
    columns = [c[np.isfinite(c)] for c in values.T]
    return [float(c.mean()) if len(c) else math.nan for c in columns]


def _per_seed(rows: Any, n: int) -> Float[np.ndarray, "points seeds"]:
    """JSON's rows of numbers or null, `n` to a row.

    Raises:
        ValueError: they are not.
    """
    ok = isinstance(rows, list) and all(isinstance(r, list) and len(r) == n for r in rows)
    if not ok or any(type(v) not in (int, float, type(None)) for r in rows for v in r):
        raise ValueError(f"expected lists of {n} numbers, one a seed")
    filled = [[math.nan if v is None else float(v) for v in row] for row in rows]
    return np.array(filled, float).reshape(len(filled), n)


def _series(data: dict[str, Any], n: int, keys: Iterable[str]) -> Series:
    steps = data["step"]
    if not isinstance(steps, list) or any(type(s) is not int for s in steps):
        raise ValueError("steps must be whole numbers")
    if any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
        raise ValueError("steps go back: two processes wrote the log")
    out = {"step": np.array(steps, int)} | {k: _per_seed(data[k], n) for k in keys}
    if any(len(values) != len(steps) for values in out.values()):
        raise ValueError("metrics and steps differ in length")
    return out


def _plain(value: Any) -> Any:
    """The value with arrays as lists, and null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(x) for x in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
