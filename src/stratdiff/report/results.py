"""What the report is made of: finished runs, from their directories or a compact results file.

A directory is first cut down to what the compact file would hold, so both give the same report.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from stratdiff.config import Alignment, flat
from stratdiff.errors import UserError
from stratdiff.report import statistics
from stratdiff.stratify import QUANTILES
from stratdiff.train.track import read_metrics

FORMAT = "stratdiff results 1"
POINTS = 40  # of a diagnostic over the online phase

ORIGINS = ("offline", "online")
_FANS = [f"alignment_q{q}_{origin}" for origin in ORIGINS for q in QUANTILES]
_SPREADS = [f"alignment_{kind}_{origin}" for origin in ORIGINS for kind in ("mean", "std")]
_DIAGNOSTICS = ("exchange_fraction", "alignment_auc", "alignment_threshold", "q_mean")
_ABOUT = ["dataset", "environment", "seconds", "updates_per_second", "online_seconds"]
_ABOUT += ["versions", "device", "git_revision"]
_PHASE_STEPS = {
    "base": "offline_steps",
    "behaviour": "behaviour_steps",
    "energy": "energy_steps",
    "online": "online_steps",
}
BASES = {"iql": "IQL", "calql": "Cal-QL", "sac": "SAC"}
_METHODS = ("base", "random", "stratdiff")
# Options that say how a run is watched, not what it does.
_BOOKKEEPING = {"log_interval", "eval_interval", "offline_eval_interval", "eval_episodes"}
_BOOKKEEPING |= {"checkpoint_seconds", "save_policies"}

Series = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of one or more seeds."""

    task: str
    variant: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    normalized: bool
    before: Float[np.ndarray, " seeds"]
    """Score after pre-training, before the first environment step."""
    after: Float[np.ndarray, " seeds"]
    """Score at the end."""
    about: dict[str, Any]
    """summary.json's facts: data set, seconds, updates_per_second, versions, device, revision."""
    evaluations: dict[str, Series]
    """For `base` (offline) and `online`: `step` [points], `score`, `return` [points, seeds]."""
    diagnostics: Series
    """Online: `step` [points] and metrics [points, seeds], means of equal parts of the phase."""
    origin: tuple[str, ...] = ()
    """Names that can tell two runs of one name apart, nearest first."""

    @property
    def base(self) -> str:
        return str(self.config["base"])

    @property
    def method(self) -> str:
        return str(self.config["method"])

    @property
    def split(self) -> str:
        """The score that splits its batches, or the method that has none."""
        return str(self.config["alignment"] if self.method == "stratdiff" else self.method)

    @property
    def regret(self) -> Float[np.ndarray, " seeds"]:
        """Per seed; NaN where scores are not normalised."""
        online = self.evaluations.get("online")
        if online is None or not self.normalized:
            return np.full(len(self.seeds), np.nan)
        return statistics.regret(online["step"], online["score"])


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A directory that looks like a run and cannot be used."""

    path: str
    reason: str


class _Unusable(Exception):
    """Why a run cannot be used."""


def read(paths: Sequence[str]) -> tuple[list[Run], list[LeftOut]]:
    """The finished runs below the paths or in compact files, in the report's order.

    Raises:
        UserError: a path does not exist or is no results file, or nothing usable is there.
    """
    if not paths:
        raise UserError("give `stratdiff report` the directory of one run or of several.")
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    seen: set[Path] = set()
    for name in paths:
        path = Path(name)
        if path.is_file():
            if path.resolve() not in seen:
                _read_compact(path, runs, left_out)
            seen.add(path.resolve())
            continue
        if not path.is_dir():
            raise UserError(f"{name!r} does not exist; give run directories, or ones above them.")
        found = _run_directories(path)
        if not found:
            left_out.append(
                LeftOut(_clean(name, 4000), "no run is in it: no config.json there or below")
            )
        for directory in found:
            if directory.resolve() in seen:
                continue
            seen.add(directory.resolve())
            try:
                runs.append(_read_directory(directory))
            except _Unusable as error:
                left_out.append(LeftOut(_clean(str(directory), 4000), _clean(str(error), 4000)))
    if not runs:
        reasons = "; ".join(f"{x.path!r}: {x.reason}" for x in left_out[:5])
        more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        raise UserError(f"there is no finished run to report. {reasons}{more}.")
    return _ordered(_told_apart(_pooled(_short_tasks(runs)))), left_out


def _run_directories(root: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(root):
        if "config.json" in files:
            found.append(Path(folder))
            names.clear()
        # What variants share before they go online is no run of its own.
        names[:] = sorted(n for n in names if n != "pretrained" and not n.startswith("."))
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _Unusable(f"{path.name} could not be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise _Unusable(f"{path.name} does not hold one JSON object")
    return data


def _read_directory(directory: Path) -> Run:
    config = _read_json(directory / "config.json")
    try:
        records = read_metrics(directory / "metrics.jsonl")
    except FileNotFoundError:
        records = []
    except (OSError, ValueError, RecursionError) as error:
        raise _Unusable(f"metrics.jsonl could not be read ({error})") from error
    try:
        where = _where(config, records)
        if not (directory / "summary.json").is_file():
            raise _Unusable(
                f"no summary.json: the run did not finish ({where}); "
                f"`stratdiff resume {directory}` goes on with it"
            )
        summary = _read_json(directory / "summary.json")
        last = [r["step"] for r in records if r["phase"] in ("base", "online") and "score" in r]
        wanted = config["online_steps"] or config["offline_steps"]
        if not last or last[-1] != wanted:
            raise _Unusable(f"metrics.jsonl is not complete ({where})")
        name = directory.resolve().name
        dataset = Path(str(config["dataset"])).name.removesuffix(".hdf5")
        # The name that `stratdiff train` gives a run says nothing that the config does not.
        stamped = re.fullmatch(
            re.escape(f"{dataset}-{config['base']}-{config['method']}-") + r"\d{8}-\d{6}", name
        )
        # `iql-random` and `calql-random` are one variant of two bases.
        variant = config["method"] if stamped else name.removeprefix(f"{config['base']}-") or name
        compact = _compact(config, summary, records) | {"variant": variant}
        parents = directory.resolve().parts[-2:0:-1]
        return _from_compact(compact, (name, *parents) if stamped else parents)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise _Unusable(f"its files are not of a run's form ({_said(error)})") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _where(config: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """How far a run came."""
    if not records:
        return "nothing was logged"
    phase, step = records[-1]["phase"], records[-1]["step"]
    return f"{phase} step {step} of {config[_PHASE_STEPS[phase]]}"


def _compact(
    config: dict[str, Any], summary: dict[str, Any], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the compact file keeps of a run, as JSON."""
    n = len(config["seeds"])
    evaluations = {}
    for phase in ("base", "online"):
        scored = [r for r in records if r["phase"] == phase and "score" in r]
        if scored:
            columns = {key: [r[key] for r in scored] for key in ("step", "score", "return")}
            evaluations[phase] = columns
    logged = [r for r in records if r["phase"] == "online" and "critic_loss" in r]
    have = {key for r in logged for key in r}
    alignment = _FANS if have.issuperset(_FANS) else _SPREADS
    kept = [key for key in (*_DIAGNOSTICS, *alignment) if key in have]
    parts = [p for p in np.array_split(np.arange(len(logged)), POINTS) if len(p)]
    missing = [None] * n
    diagnostics: dict[str, Any] = {"step": [logged[p[-1]]["step"] for p in parts]}
    for key in kept:
        values = _per_seed([r.get(key, missing) for r in logged], n)
        diagnostics[key] = [[_rounded(v) for v in column_means(values[p])] for p in parts]
    return {
        "config": config,
        "normalized": summary["normalized"],
        "before": summary["score"]["before"]["per_seed"],
        "after": summary["score"]["after"]["per_seed"],
        "about": {key: summary[key] for key in _ABOUT if key in summary},
        "evaluations": evaluations,
        "diagnostics": diagnostics if kept else {"step": []},
    }


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


def column_means(values: Float[np.ndarray, "points seeds"]) -> list[float]:
    """Mean of each seed's finite numbers; NaN where there are none."""
    columns = [c[np.isfinite(c)] for c in values.T]
    return [float(c.mean()) if len(c) else math.nan for c in columns]


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _clean(name: Any, longest: int = 120) -> str:
    """A name that can be shown: no control characters, not endless."""
    if not isinstance(name, str):
        raise ValueError(f"expected a name, got {name!r}")
    return "".join(c if c.isprintable() else "?" for c in name)[:longest] or "?"


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


def _from_compact(data: dict[str, Any], origin: tuple[str, ...]) -> Run:
    """A run from JSON that may hold anything.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not of the compact file's form.
    """
    config, about = data["config"], data["about"]
    seeds = config["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int for s in seeds):
        raise ValueError("seeds must be whole numbers")
    n = len(seeds)
    if config["base"] not in BASES or config["method"] not in _METHODS:
        raise ValueError(f"base {config['base']!r}, method {config['method']!r} is not known")
    if config["alignment"] not in get_args(Alignment):
        raise ValueError(f"alignment {config['alignment']!r} is not known")
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
    known = [k for k in (*_DIAGNOSTICS, *_FANS, *_SPREADS) if k in diagnostics]
    return Run(
        task=_clean(config["dataset"]),  # short once all runs are known
        variant=_clean(data["variant"]),
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
        origin=origin,
    )


def _read_compact(path: Path, runs: list[Run], left_out: list[LeftOut]) -> None:
    try:
        data = _read_json(path)
        if data.get("format") != FORMAT:
            raise _Unusable(f"its format is {data.get('format')!r}, not {FORMAT!r}")
        found = data["runs"]
        parents = (path.name, *path.resolve().parts[-2:0:-1])
        runs += [_from_compact(run, parents) for run in found]
        left_out += [
            LeftOut(_clean(x["path"], 4000), _clean(x["reason"], 4000)) for x in data["left_out"]
        ]
    except (_Unusable, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{str(path)!r} is no results file of `stratdiff report`: {error}."
        ) from error


def to_json(runs: Sequence[Run], left_out: Sequence[LeftOut]) -> str:
    """The compact results file; a line holds one run."""

    def rows(series: Series) -> dict[str, Any]:
        numbers = {
            k: [[_json(v) for v in row] for row in x] for k, x in series.items() if x.ndim > 1
        }
        return {"step": series["step"].tolist()} | numbers

    lines = [
        json.dumps(
            {
                "task": run.task,
                "variant": run.variant,
                "config": run.config,
                "normalized": run.normalized,
                "before": [_json(v) for v in run.before],
                "after": [_json(v) for v in run.after],
                "about": run.about,
                "evaluations": {phase: rows(x) for phase, x in run.evaluations.items()},
                "diagnostics": rows(run.diagnostics),
            },
            separators=(",", ":"),
        )
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


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _short_tasks(runs: list[Run]) -> list[Run]:
    """Tasks by the last part of the data set's name, as far as that tells them apart."""
    meant: dict[str, set[str]] = {}
    for run in runs:
        meant.setdefault(_last_part(run.task), set()).add(run.task)
    short = [
        dataclasses.replace(run, task=_last_part(run.task))
        if len(meant[_last_part(run.task)]) == 1
        else run
        for run in runs
    ]
    environments: dict[str, set[str]] = {}
    for run in short:
        environments.setdefault(run.task, set()).add(str(run.config.get("env", "")))
    return [
        dataclasses.replace(run, task=f"{run.task} ({_clean(run.config.get('env') or '?')})")
        if len(environments[run.task]) > 1
        else run
        for run in short
    ]


def _last_part(task: str) -> str:
    return re.split(r"[/\\]", task)[-1].removesuffix(".hdf5") or task


def options(config: dict[str, Any]) -> dict[str, Any]:
    """All options but the seeds by their dotted names."""
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in flat(config).items()}
    values.pop("seeds", None)
    return values


def differing(a: Run, b: Run) -> list[str]:
    """Options whose values differ."""
    x, y = options(a.config), options(b.config)
    return sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))


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
                if not differing(run, others[0]) and _same_points(run, others[0]):
                    others.append(run)
                    break
            else:
                alike.append([run])
        for parts in alike:
            seeds = [s for run in parts for s in run.seeds]
            out += [_pool(parts)] if len(parts) > 1 and len(set(seeds)) == len(seeds) else parts
    return out


def _same_points(a: Run, b: Run) -> bool:
    def points(run: Run) -> list[Any]:
        series = [*sorted(run.evaluations.items()), ("", run.diagnostics)]
        return [(name, sorted(s), s["step"].tolist()) for name, s in series]

    return a.normalized == b.normalized and points(a) == points(b)


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
        done = [r.about["updates_per_second"].get(k, 0.0) * r.about["seconds"].get(k, 0.0)
                for r in parts]  # fmt: skip
        speed[k] = round(sum(done) / seconds[k], 2) if seconds.get(k) else 0.0
    about = first.about | {"seconds": seconds, "updates_per_second": speed}
    return dataclasses.replace(
        first,
        config=first.config | {"seeds": list(seeds)},
        seeds=seeds,
        before=np.concatenate([run.before for run in parts]),
        after=np.concatenate([run.after for run in parts]),
        about=about,
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
            out.append(dataclasses.replace(run, variant=_clean(name), origin=()))
    return out


def _natural(text: str) -> list[tuple[bool, Any]]:
    """Sort key by which 9 comes before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(bool(i % 2), float(p) if i % 2 else p) for i, p in enumerate(parts)]


def _ordered(runs: list[Run]) -> list[Run]:
    """By base algorithm, task, method (the plain base first) and name."""

    def key(run: Run) -> tuple[Any, ...]:
        method = _METHODS.index(run.method)
        return [*BASES].index(run.base), _natural(run.task), method, _natural(run.variant)

    return sorted(runs, key=key)


def panels(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by (base algorithm, task)."""
    out: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        out.setdefault((run.base, run.task), []).append(run)
    return out


def reference(run: Run, runs: Iterable[Run]) -> Run | None:
    """The plain base that a run is compared with: of several, the one of the nearest config."""
    if run.method == "base":
        return None
    bases = [r for r in runs if r.method == "base" and (r.task, r.base) == (run.task, run.base)]
    return min(bases, key=lambda r: len(differing(run, r)), default=None)


def paired_difference(run: Run, other: Run, values: str = "after") -> Float[np.ndarray, " seeds"]:
    """run minus other, for each seed that both have: they share its pre-training."""
    both = [s for s in run.seeds if s in other.seeds]
    a, b = (np.asarray(getattr(r, values)) for r in (run, other))
    x = a[[run.seeds.index(s) for s in both]]
    return np.asarray(x - b[[other.seeds.index(s) for s in both]], float)


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
class Sweep:
    """Runs of a task that differ in one numeric option alone, by its value."""

    base: str
    task: str
    option: str
    points: list[tuple[float, Run]]


def sweeps(runs: Sequence[Run]) -> list[Sweep]:
    """All sets of two runs or more that differ in one number."""
    out = []
    for (base, task), group in panels(runs).items():
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
    for (base, task), group in panels(runs).items():
        for what, values in (
            ("data set fingerprints", {r.about["dataset"].get("fingerprint") for r in group}),
            ("online steps", {r.config.get("online_steps") for r in group}),
            ("episodes per evaluation", {r.config.get("eval_episodes") for r in group}),
            ("seeds", {r.seeds for r in group}),
        ):
            if len(values) > 1:
                said = ", ".join(sorted(_clean(str(v)) for v in values))
                out.append(f"{BASES[base]} on {task}: the runs differ in {what} ({said}).")
    return out
