"""The compact form of a run: JSON that holds what the report needs, a few kilobytes a seed.

A run directory is cut down to it before it is read, so that a report of directories and one of the
`results.json` that it wrote are the same.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from stratdiff.files import summed
from stratdiff.presets import translated
from stratdiff.report.runs import LeftOut, Run, Series, clean
from stratdiff.report.statistics import finite_mean
from stratdiff.splits import QUANTILES

FORMAT = "stratdiff results 1"
POINTS = 40  # of a diagnostic over the online phase

ORIGINS = ("offline", "online")
DIAGNOSTICS = ("exchange_fraction", "alignment_auc", "alignment_threshold", "q_mean")
_FANS = [f"alignment_q{q}_{origin}" for origin in ORIGINS for q in QUANTILES]
_SPREADS = [f"alignment_{kind}_{origin}" for origin in ORIGINS for kind in ("mean", "std")]
_ABOUT = ["dataset", "environment", "seconds", "updates_per_second", "online_seconds"]
_ABOUT += ["versions", "device", "git_revision"]
_KEPT = ["task", "variant", "config", "normalized", "before", "after", "about"]
_KEPT += ["evaluations", "diagnostics"]


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
        means = [finite_mean(values[p], axis=0) for p in parts]
        diagnostics[key] = [[float(f"{v:.5g}") for v in row] for row in means]
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
    evaluations, diagnostics, seeds = data["evaluations"], data["diagnostics"], config["seeds"]
    _expect(_of_type(seeds, int) and seeds, "seeds must be whole numbers")
    both = isinstance(about, dict) and isinstance(evaluations, dict)
    _expect(both, "about and evaluations must be objects")
    for key in ("seconds", "updates_per_second", "versions", "dataset"):
        _expect(isinstance(about.setdefault(key, {}), dict), f"{key} must be an object")
    for key in ("seconds", "updates_per_second"):
        _expect(_of_type([*about[key].values()], int, float), f"{key} must be numbers")
    mean_score = about["dataset"].get("mean_score")
    _expect(_of_type([mean_score], int, float, type(None)), "mean_score must be a number")
    numbers = [config.get(key) for key in ("offline_steps", "online_steps", "utd", "eval_episodes")]
    _expect(_of_type(numbers, int, type(None)), "steps, UTD and episodes must be whole numbers")
    words = [config.get("env"), about["dataset"].get("fingerprint")]
    _expect(_of_type(words, str, type(None)), "env and fingerprint must be text")
    known = [k for k in (*DIAGNOSTICS, *_FANS, *_SPREADS) if k in diagnostics]
    n = len(seeds)
    return Run(
        task=clean(config["dataset"]),  # short once all runs are known
        variant=clean(data.get("variant", "?")),
        base=clean(config["base"]),
        score=clean(config["score"]),
        config=config,
        seeds=tuple(seeds),
        normalized=bool(data["normalized"]),
        before=_per_seed([data["before"]], n)[0],
        after=_per_seed([data["after"]], n)[0],
        about=about,
        evaluations={
            phase: _series(evaluations[phase], n, ("score", "return"))
            for phase in ("base", "online")
            if phase in evaluations
        },
        diagnostics=_series(diagnostics, n, known),
    )


def to_json(runs: Sequence[Run], left_out: Sequence[LeftOut]) -> str:
    """The compact results file; a line holds one run."""
    kept = [_plain({key: getattr(run, key) for key in _KEPT}) for run in runs]
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in kept)
    missing = ",\n".join(json.dumps(x._asdict()) for x in left_out)
    whole = {"format": FORMAT, "left_out": [x._asdict() for x in left_out], "runs": kept}
    number = summed(whole)["crc32"]
    head = f'"format": "{FORMAT}", "crc32": {number}'
    return f'{{{head},\n"left_out": [\n{missing}\n],\n"runs": [\n{lines}\n]}}\n'


def _expect(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _of_type(values: Any, *types: type) -> bool:
    return isinstance(values, list) and all(type(v) in types for v in values)


def _per_seed(rows: Any, n: int) -> Float[np.ndarray, "points seeds"]:
    """JSON's rows of numbers or null, `n` to a row."""
    ok = isinstance(rows, list) and all(_of_type(r, int, float, type(None)) for r in rows)
    _expect(ok and all(len(r) == n for r in rows), f"expected lists of {n} numbers, one a seed")
    return np.array(rows, float).reshape(len(rows), n)  # null becomes NaN


def _series(data: dict[str, Any], n: int, keys: Iterable[str]) -> Series:
    steps = data["step"]
    _expect(_of_type(steps, int), "steps must be whole numbers")
    rising = all(a < b for a, b in zip(steps, steps[1:], strict=False))
    _expect(rising, "steps go back: two processes wrote the log")
    out = {"step": np.array(steps, int)} | {k: _per_seed(data[k], n) for k in keys}
    same = all(len(values) == len(steps) for values in out.values())
    _expect(same, "metrics and steps differ in length")
    return out


def _plain(value: Any) -> Any:
    """The value with arrays as lists, and null for numbers that JSON does not have."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
