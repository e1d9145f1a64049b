"""What can be compared: variants with their plain base, over tasks, and along one option."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stratdiff.report.runs import Run, by_task, differing, options
from stratdiff.report.statistics import Estimate, bootstrap, improvement, iqm, mean
from stratdiff.report.titles import clean, title

# Options that say how a run is watched, not what it does.
_BOOKKEEPING = {"log_interval", "eval_interval", "offline_eval_interval", "eval_episodes"}
_BOOKKEEPING |= {"checkpoint_seconds", "save_policies"}


def reference(run: Run, runs: Sequence[Run]) -> Run | None:
    """The plain base that a run is compared with: of several, the one of the nearest config."""
    if run.is_plain:
        return None
    plain = [r for r in runs if r.is_plain and (r.task, r.base) == (run.task, run.base)]
    return min(plain, key=lambda r: len(differing(run, r)), default=None)


def paired_difference(run: Run, other: Run, values: str = "after") -> Float[np.ndarray, " seeds"]:
    """run minus other, for each seed that both have: they share its pre-training."""
    both = [s for s in run.seeds if s in other.seeds]
    a, b = (np.asarray(getattr(r, values)) for r in (run, other))
    x = a[[run.seeds.index(s) for s in both]]
    return np.asarray(x - b[[other.seeds.index(s) for s in both]], float)


def over_base(run: Run, runs: Sequence[Run]) -> Estimate:
    """Score after, over that of the plain base, paired by seed."""
    other = reference(run, runs)
    return Estimate() if other is None else bootstrap(mean, [paired_difference(run, other)])


@dataclasses.dataclass(frozen=True)
class Block:
    """Variants of a base algorithm with the tasks that all of them have."""

    base: str
    tasks: tuple[str, ...]
    variants: dict[str, list[Run]]
    """Per variant a run for each task."""


def blocks(runs: Sequence[Run]) -> list[Block]:
    """What can be averaged over tasks: for each set of tasks some variant has, all that have it.

    Only tasks with normalised scores, unless there is just one.
    """
    out = []
    for base in dict.fromkeys(run.base for run in runs):
        own = [run for run in runs if run.base == base]
        alone = len({run.task for run in own}) == 1
        have: dict[str, dict[str, Run]] = {}
        for run in own:
            if alone or run.normalized:
                have.setdefault(run.variant, {})[run.task] = run
        sets = list(dict.fromkeys(tuple(by_task) for by_task in have.values()))
        for tasks in sorted(sets, key=len, reverse=True):
            variants = {
                name: [by_task[t] for t in tasks]
                for name, by_task in have.items()
                if set(tasks) <= by_task.keys()
            }
            if len(variants) > 1 and (alone or len(tasks) > 1):
                out.append(Block(base, tasks, variants))
    return out


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """A variant over the tasks of a block."""

    variant: str
    iqm: Estimate
    mean: Estimate
    over_base: Estimate
    improvement: Estimate
    regret: Estimate


def aggregates(block: Block, runs: Sequence[Run]) -> list[Aggregate]:
    """Each variant of the block; over the plain base only where every task has one."""
    out = []
    for name, own in block.variants.items():
        pairs = [(run, other) for run in own if (other := reference(run, runs))]
        over, better = Estimate(), Estimate()
        if len(pairs) == len(own):
            over = bootstrap(mean, [paired_difference(*pair) for pair in pairs])
            better = bootstrap(improvement, [r.after for pair in pairs for r in pair])
        after = [r.after for r in own]
        regret = bootstrap(mean, [r.regret for r in own])
        scores = bootstrap(iqm, after), bootstrap(mean, after)
        out.append(Aggregate(name, *scores, over, better, regret))
    return out


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs of a task that differ in one numeric option alone, by its value."""

    base: str
    task: str
    option: str
    points: list[tuple[float, Run]]


def sweeps(runs: Sequence[Run]) -> list[Sweep]:
    """All sets of two runs or more that differ in one number."""
    out = []
    for (base, task), group in by_task(runs).items():
        if len(group) < 2:
            continue
        tables = [options(run.config) for run in group]
        numeric = sorted({k for t in tables for k, v in t.items() if type(v) in (int, float)})
        for name in (n for n in numeric if n not in _BOOKKEEPING):
            alike: dict[str, list[tuple[float, Run]]] = {}
            for run, table in zip(group, tables, strict=True):
                if type(table.get(name)) in (int, float):
                    rest = {k: v for k, v in table.items() if k not in _BOOKKEEPING | {name}}
                    key = repr(sorted(rest.items()))
                    alike.setdefault(key, []).append((float(table[name]), run))
            for points in alike.values():
                if len({value for value, _ in points}) > 1:
                    points.sort(key=lambda p: p[0])
                    out.append(Sweep(base, task, name, points))
    return out


def notes(runs: Sequence[Run]) -> list[str]:
    """What makes runs of a task less comparable than they look."""
    out = []
    for (base, task), group in by_task(runs).items():
        for what, values in (
            ("data set fingerprints", {r.about["dataset"].get("fingerprint") for r in group}),
            ("online steps", {r.config.get("online_steps") for r in group}),
            ("episodes per evaluation", {r.config.get("eval_episodes") for r in group}),
            ("seeds", {r.seeds for r in group}),
        ):
            if len(values) > 1:
                said = ", ".join(sorted(clean(str(v)) for v in values))
                out.append(f"{title(base)} on {task}: the runs differ in {what} ({said}).")
    return out
