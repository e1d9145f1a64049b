"""The finished runs below given paths, as the report names, pools and orders them."""

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.errors import UserError
from stratdiff.files import LOCK, MARK, folders, is_held, run_folders
from stratdiff.reading import read_table
from stratdiff.report.compact import FORMAT, compact, from_compact
from stratdiff.report.runs import TITLES, LeftOut, Run, Series, by_task, clean, differing, title
from stratdiff.sinks.jsonl import read_metrics

# What JSON of another form can raise while it is read as a run.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UserError)


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
        try:
            path.stat()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            said = "does not exist" if missing else f"cannot be read ({error.strerror})"
            raise UserError(
                f"{name!r} {said}; give run directories, or ones above them."
            ) from error
        found = [path] if path.is_file() else run_folders(path)
        if not found:
            left_out.append(_left_out(name, "no run is in it: no config.json there or below"))
        for item in found:
            if item.resolve() in seen:
                continue
            seen.add(item.resolve())
            if item.is_file():
                _read_compact(item, runs, left_out)
                continue
            try:
                runs.append(_read_directory(item))
            except _Unusable as error:
                left_out.append(_left_out(str(item), str(error)))
    if not runs:
        reasons = "; ".join(f"{x.path!r}: {x.reason}" for x in left_out[:5])
        more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        raise UserError(f"there is no finished run to report. {reasons}{more}.")
    return _arranged(runs), left_out


def state(paths: Sequence[str]) -> tuple[bool, dict[Path, int]]:
    """(whether a run below the paths is being trained, when each run there was finished).

    The times are those of summary.json, in nanoseconds; 0: not finished.
    """
    roots = [*map(Path, paths)]
    # Looked at first: what is not trained any more does not change any more.
    around = [folder for root in roots for folder, _ in folders(root)]
    around += [folder for root in roots for folder in root.absolute().parents]
    trained = any(is_held(folder / lock) for folder in around for lock in (LOCK, MARK))
    times = {}
    for run in (run for root in roots for run in run_folders(root)):
        times[run] = 0
        with contextlib.suppress(FileNotFoundError):
            times[run] = (run / "summary.json").stat().st_mtime_ns
    return trained, times


def _left_out(path: Any, reason: Any) -> LeftOut:
    return LeftOut(clean(path, 4000), clean(reason, 4000))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_table(path, "file")
    except UserError as error:
        raise _Unusable(str(error)) from error


def _read_directory(directory: Path) -> Run:
    config = _read_json(directory / "config.json")
    log = directory / "metrics.jsonl"
    try:
        records = read_metrics(log) if log.exists() else []
    except (OSError, ValueError, RecursionError, UserError) as error:
        raise _Unusable(f"metrics.jsonl could not be read ({error})") from error
    try:
        progress = _progress(config, records)
        if not (directory / "summary.json").is_file():
            said = f"no summary.json: the run did not finish ({progress})"
            raise _Unusable(f"{said}; `stratdiff resume {directory}` goes on with it")
        summary = _read_json(directory / "summary.json")
        last = [r["step"] for r in records if r["phase"] in ("base", "online") and "score" in r]
        if last[-1:] != [config["online_steps"] or config["offline_steps"]]:
            if not config["eval_episodes"]:
                raise _Unusable("it was not evaluated (eval_episodes is 0)")
            steps = config["online_steps"]
            if (done := summary.get("online_steps", steps)) < steps:
                raise _Unusable(f"it was ended at online step {done} of {steps}")
            raise _Unusable(f"metrics.jsonl is not complete ({progress})")
        return _named(from_compact(compact(config, summary, records)), directory.resolve())
    except _MALFORMED as error:
        said = f"{type(error).__name__}: {error}"
        raise _Unusable(f"its files are not of a run's form ({said})") from error


def _progress(config: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """The last log point in words."""
    if not records:
        return "nothing was logged"
    phase, step = records[-1]["phase"], records[-1]["step"]
    steps = config.get("offline_steps" if phase == "base" else f"{phase}_steps")
    return f"{phase} step {step}" + (f" of {steps}" if steps is not None else "")


def _named(run: Run, directory: Path) -> Run:
    """The run with the name of its directory, and those above it to tell it from others.

    The default name of `stratdiff train`, DATASET-BASE-SCORE-TIMESTAMP, says nothing that the
    config does not: such a run is called by its score. Earlier versions wrote `base` for the score
    `none` and `stratdiff` for any other but `random`.
    """
    name, above = directory.name, directory.parts[-2:0:-1]
    dataset = Path(run.config["dataset"]).name.removesuffix(".hdf5")
    bases = {run.base, title(run.base)}
    scores = {run.score, title(run.score), "base" if run.is_plain else "stratdiff"}
    base, score = ("|".join(map(re.escape, names)) for names in (bases, scores))
    if re.fullmatch(rf"{re.escape(dataset)}-({base})-({score})-\d{{8}}-\d{{6}}", name):
        return dataclasses.replace(run, variant=title(run.score), origin=(name, *above))
    # `iql-random` and `calql-random` are one variant of two bases.
    variant = clean(name.removeprefix(f"{run.base}-") or name)
    return dataclasses.replace(run, variant=variant, origin=above)


def _read_compact(path: Path, runs: list[Run], left_out: list[LeftOut]) -> None:
    """Add the runs of a compact results file, and what it says was left out."""
    try:
        data = _read_json(path)
        if data.get("format") != FORMAT:
            raise _Unusable(f"its format is {data.get('format')!r}, not {FORMAT!r}")
        above = (path.name, *path.resolve().parts[-2:0:-1])
        runs += [dataclasses.replace(from_compact(run), origin=above) for run in data["runs"]]
        left_out += [_left_out(x["path"], x["reason"]) for x in data["left_out"]]
    except (_Unusable, *_MALFORMED) as error:
        said = f"{str(path)!r} is no results file of `stratdiff report`: {error}."
        raise UserError(said) from error


def _arranged(runs: list[Run]) -> list[Run]:
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
