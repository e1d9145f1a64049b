"""What runs are called and how they are ordered, once all of them are known."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from stratdiff.report.runs import TITLES, Run, Series, by_task, clean, differing


def arranged(runs: list[Run]) -> list[Run]:
    """The runs with short names that tell them apart, in the report's order.

    Runs of one name that differ in their seeds alone become one run.
    """
    return sorted(_told_apart(_pooled(_short_tasks(runs))), key=_place)


def _place(run: Run) -> tuple[Any, ...]:
    """By base algorithm, task, score (the plain base and the random split first) and name."""
    known = [*TITLES]
    base = known.index(run.base) if run.base in known else len(known)
    score = {"none": 0, "random": 1}.get(run.score, 2)
    return base, run.base, _natural(run.task), score, _natural(run.variant)


def _natural(text: str) -> list[tuple[bool, Any]]:
    """Sort key by which 9 comes before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(bool(i % 2), float(p) if i % 2 else p) for i, p in enumerate(parts)]


def _short_tasks(runs: list[Run]) -> list[Run]:
    """Tasks by the last part of the data set's name, as far as that tells them apart."""
    names = {r.task: re.split(r"[/\\]", r.task)[-1].removesuffix(".hdf5") or r.task for r in runs}
    meant = Counter(names.values())
    short = {task: name if meant[name] == 1 else task for task, name in names.items()}
    pairs = {(short[run.task], str(run.config.get("env", ""))) for run in runs}
    environments = Counter(task for task, _ in pairs)
    out = []
    for run in runs:
        task = short[run.task]
        if environments[task] > 1:
            task += f" ({clean(run.config.get('env') or '?')})"
        out.append(dataclasses.replace(run, task=task))
    return out


def _pooled(runs: list[Run]) -> list[Run]:
    """One run of all seeds from runs that differ in nothing else."""
    out = []
    for group in by_task(runs, "variant").values():
        alike: list[list[Run]] = []
        for run in group:
            same = (x for x in alike if not differing(run, x[0]) and _points(run) == _points(x[0]))
            if (others := next(same, None)) is None:
                alike.append([run])
            else:
                others.append(run)
        for parts in alike:
            seeds = [s for run in parts for s in run.seeds]
            out += [_pool(parts)] if len(parts) > 1 and len(set(seeds)) == len(seeds) else parts
    return out


def _points(run: Run) -> list[Any]:
    """What was measured, and when."""
    series = [*sorted(run.evaluations.items()), ("", run.diagnostics)]
    return [run.normalized, *((name, sorted(s), s["step"].tolist()) for name, s in series)]


def _pool(parts: list[Run]) -> Run:
    parts = sorted(parts, key=lambda run: run.seeds)
    first, spent = parts[0], [run.about["seconds"] for run in parts]
    seeds = tuple(s for run in parts for s in run.seeds)

    def joined(series: Sequence[Series]) -> Series:
        rest = {k: np.concatenate([s[k] for s in series], axis=1) for k in series[0] if k != "step"}
        return {"step": series[0]["step"]} | rest

    seconds = {k: round(sum(s.get(k, 0.0) for s in spent), 2) for k in spent[0]}
    speed = {}
    for k in first.about["updates_per_second"]:
        rates = [run.about["updates_per_second"].get(k, 0.0) for run in parts]
        done = sum(rate * s.get(k, 0.0) for rate, s in zip(rates, spent, strict=True))
        speed[k] = round(done / seconds[k], 2) if seconds.get(k) else 0.0
    return dataclasses.replace(
        first,
        config=first.config | {"seeds": list(seeds)},
        seeds=seeds,
        before=np.concatenate([run.before for run in parts]),
        after=np.concatenate([run.after for run in parts]),
        about=first.about | {"seconds": seconds, "updates_per_second": speed},
        evaluations={k: joined([run.evaluations[k] for run in parts]) for k in first.evaluations},
        diagnostics=joined([run.diagnostics for run in parts]),
    )


def _told_apart(runs: list[Run]) -> list[Run]:
    """Names that are still the same get the names above them that differ in front."""
    out = []
    for group in by_task(runs, "variant").values():
        names = [run.variant for run in group]
        for level in range(max(len(run.origin) for run in group)):
            above = [run.origin[level] if level < len(run.origin) else "" for run in group]
            if len(set(names)) < len(names) and len(set(above)) > 1:
                names = [f"{a}/{n}" if a else n for a, n in zip(above, names, strict=True)]
        for i, run in enumerate(group):
            again = names[:i].count(names[i])
            name = f"{names[i]} ({again + 1})" if again else names[i]
            out.append(dataclasses.replace(run, variant=clean(name), origin=()))
    return out
