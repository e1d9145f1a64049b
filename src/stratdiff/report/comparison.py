"""What can be compared: variants with their plain base, over tasks, and along one option."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stratdiff.agents.base import AGENTS, offline_options
from stratdiff.config import RunOptions
from stratdiff.report.runs import Run, Runs, by_task, clean, differing, options, title
from stratdiff.report.statistics import Estimate, bootstrap, improvement, iqm, mean

# Options that say how a run is watched, not what it does.
_BOOKKEEPING = {"log_interval", "eval_interval", "offline_eval_interval", "eval_episodes"}
_BOOKKEEPING |= {"checkpoint_seconds", "save_policies"}


CONTROLS = ("base", "random", "origin", "all plain", "flips")
"""What a score has to beat, as none of them needs a model: no split, one by chance, one by where a
row came from, no conservative row at all, and the origin with rows that change sides by chance."""


def control(run: Run) -> str:
    """Which of `CONTROLS` the run is; empty: none of them."""
    if run.is_plain:
        return "base"
    if run.config.get("split") == "ratio" and run.config.get("rho") == 0:
        return "all plain"
    if run.config.get("origin_flips"):
        return "flips"
    return run.score if run.score in CONTROLS else ""


def reference(run: Run, runs: Runs, kind: str = "base") -> Run | None:
    """The control that a run is compared with: one with its pre-training and some of its seeds.

    Of several, the one of the nearest config, then the one with the most seeds in common.
    """

    def distance(other: Run) -> tuple[int, int]:
        changed = {*differing(run, other)} - _BOOKKEEPING
        return len(changed), -len({*run.seeds} & {*other.seeds})

    if control(run) == kind:
        return None
    own = [r for r in runs if control(r) == kind and _pretrained_alike(run, r)]
    return min((r for r in own if {*run.seeds} & {*r.seeds}), key=distance, default=None)


def _pretrained_alike(a: Run, b: Run) -> bool:
    """Whether, with the same seed, both start the online phase with the same agent.

    WSRL, whose critics are others, has the options of a control of Cal-QL otherwise.
    """
    if (a.task, a.base) != (b.task, b.base):
        return False
    read = {"offline_steps", "batch_size", "reward_scale", "recipe", "normalize_states"}
    read |= {"validation_fraction", "from_run", "precision"}
    if a.base in AGENTS.names():  # of one from outside, its options are not known
        read |= {*offline_options(AGENTS.find(a.base))}
    # An earlier version may lack some, and did as the default says; of a base's this is not known.
    default = {field.name: field.default for field in dataclasses.fields(RunOptions)}
    x, y = (default | options(run.config) for run in (a, b))
    return all(x[name] == y[name] for name in read & x.keys() & y.keys())


def paired_difference(run: Run, other: Run, values: str = "after") -> Float[np.ndarray, " seeds"]:
    """run minus other, for each seed that both have."""
    own, plain = (dict(zip(r.seeds, getattr(r, values), strict=True)) for r in (run, other))
    return np.array([own[seed] - plain[seed] for seed in run.seeds if seed in plain], float)


def over_base(run: Run, runs: Runs) -> Estimate:
    """Score after, over that of the plain base, paired by seed."""
    other = reference(run, runs)
    return Estimate() if other is None else bootstrap(mean, [paired_difference(run, other)])


class Block(NamedTuple):
    """Variants of a base algorithm with the tasks that all of them have."""

    base: str
    tasks: tuple[str, ...]
    variants: dict[str, list[Run]]
    """Per variant a run for each task."""


def blocks(runs: Runs) -> list[Block]:
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


class Aggregate(NamedTuple):
    """A variant over the tasks of a block."""

    variant: str
    iqm: Estimate
    mean: Estimate
    over_base: Estimate
    improvement: Estimate
    regret: Estimate
    regret_over_base: Estimate


Found = Sequence[tuple[Block, Sequence[Aggregate]]]
"""Blocks with their variants' aggregates."""


def aggregates(block: Block, runs: Runs) -> list[Aggregate]:
    """Each variant of the block; over the plain base only where every task has one."""
    out = []
    for name, own in block.variants.items():
        pairs = [(run, other) for run in own if (other := reference(run, runs))]
        if len(pairs) < len(own):
            pairs = []  # nothing to estimate
        after = [run.after for run in own]
        over = bootstrap(mean, [paired_difference(*pair) for pair in pairs])
        better = bootstrap(improvement, [r.after for pair in pairs for r in pair])
        regret = bootstrap(mean, [run.regret for run in own])
        scores = bootstrap(iqm, after), bootstrap(mean, after)
        less = over_control(own, runs, "base")
        out.append(Aggregate(name, *scores, over, better, regret, less))
    return out


def over_control(own: Runs, runs: Runs, kind: str, values: str = "regret") -> Estimate:
    """`values` of a variant's runs, one a task, minus those of one of `CONTROLS`, paired by seed.

    Nothing to estimate where a task has no such control, or the variant is the control.
    """
    pairs = [(run, other) for run in own if (other := reference(run, runs, kind))]
    differences = [paired_difference(*pair, values) for pair in pairs]
    return bootstrap(mean, differences if len(pairs) == len(own) else [])


class Sweep(NamedTuple):
    """Runs of a task that differ in one numeric option alone, by its value."""

    base: str
    task: str
    option: str
    points: list[tuple[float, Run]]


def sweeps(runs: Runs) -> list[Sweep]:
    """All sets of two runs or more that differ in one number."""
    out = []
    for (base, task), group in by_task(runs).items():
        alike: dict[tuple[str, str], list[tuple[float, Run]]] = {}
        for run in group:
            table = {k: v for k, v in options(run.config).items() if k not in _BOOKKEEPING}
            for name in (k for k, v in table.items() if type(v) in (int, float)):
                rest = repr(sorted((k, v) for k, v in table.items() if k != name))
                alike.setdefault((name, rest), []).append((float(table[name]), run))
        for (name, _), points in sorted(alike.items(), key=lambda item: item[0][0]):
            if len({value for value, _ in points}) > 1:
                out.append(Sweep(base, task, name, sorted(points, key=lambda p: p[0])))
    return out


def notes(runs: Runs) -> list[str]:
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
        for run in group:
            known = np.isfinite(run.before) & np.isfinite(run.after)
            if missing := [str(seed) for seed, ok in zip(run.seeds, known, strict=True) if not ok]:
                out.append(
                    f"{title(base)} on {task}, {run.variant}: no finite score before or after with "
                    f"seed {', '.join(missing)}; means leave such scores out."
                )
    return out
