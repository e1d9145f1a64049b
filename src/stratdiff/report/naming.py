"""What runs are called and how they are ordered, once all of them are known."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stratdiff.report.runs import Run, Series, differing
from stratdiff.report.titles import TITLES, clean


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
    meant = Counter(map(_last_part, {run.task for run in runs}))
    short = [
        dataclasses.replace(run, task=last) if meant[last] == 1 else run
        for run, last in ((run, _last_part(run.task)) for run in runs)
    ]
    environments = Counter(
        task for task, _ in {(run.task, str(run.config.get("env", ""))) for run in short}
    )
    return [
        dataclasses.replace(run, task=f"{run.task} ({clean(run.config.get('env') or '?')})")
        if environments[run.task] > 1
        else run
        for run in short
    ]


def _last_part(task: str) -> str:
    return re.split(r"[/\\]", task)[-1].removesuffix(".hdf5") or task


def _groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs of the same task, base algorithm and name."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.base, run.variant), []).append(run)
    return list(groups.values())


def _pooled(runs: list[Run]) -> list[Run]:
    """One run of all seeds from runs that differ in nothing else."""
    out = []
    for group in _groups(runs):
        alike: list[list[Run]] = []
        for run in group:
            for others in alike:
                if not differing(run, others[0]) and _points(run) == _points(others[0]):
                    others.append(run)
                    break
            else:
                alike.append([run])
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
    first = parts[0]
    seeds = tuple(s for run in parts for s in run.seeds)

    def joined(series: Sequence[Series]) -> Series:
        rest = {k: np.concatenate([s[k] for s in series], axis=1) for k in series[0] if k != "step"}
        return {"step": series[0]["step"]} | rest

    spent = [run.about["seconds"] for run in parts]
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
        evaluations={
            phase: joined([run.evaluations[phase] for run in parts]) for phase in first.evaluations
        },
        diagnostics=joined([run.diagnostics for run in parts]),
    )


def _told_apart(runs: list[Run]) -> list[Run]:
    """Names that are still the same get the names above them that differ in front."""
    out = []
    for group in _groups(runs):
        names = [run.variant for run in group]
        depth = max(len(run.origin) for run in group)
        for level in range(depth):
            if len(set(names)) == len(names):
                break
            above = [run.origin[level] if level < len(run.origin) else "" for run in group]
            if len(set(above)) > 1:
                names = [f"{a}/{n}" if a else n for a, n in zip(above, names, strict=True)]
        for i, run in enumerate(group):
            again = names[:i].count(names[i])
            name = f"{names[i]} ({again + 1})" if again else names[i]
            out.append(dataclasses.replace(run, variant=clean(name), origin=()))
    return out
