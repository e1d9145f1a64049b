"""The finished runs below given paths, from their directories or a compact results file."""

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stratdiff.errors import UserError
from stratdiff.report.compact import FORMAT, compact, from_compact
from stratdiff.report.naming import arranged
from stratdiff.report.runs import LeftOut, Run, clean, title
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
        if not (path := Path(name)).exists():
            raise UserError(f"{name!r} does not exist; give run directories, or ones above them.")
        found = [path] if path.is_file() else _run_directories(path)
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
    return arranged(runs), left_out


def _left_out(path: Any, reason: Any) -> LeftOut:
    return LeftOut(clean(path, 4000), clean(reason, 4000))


def _run_directories(root: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(root):
        if "config.json" in files:
            found.append(Path(folder))
            names.clear()
        # The pre-training that variants share is no run of its own.
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
        progress = _progress(config, records)
        if not (directory / "summary.json").is_file():
            raise _Unusable(
                f"no summary.json: the run did not finish ({progress}); "
                f"`stratdiff resume {directory}` goes on with it"
            )
        summary = _read_json(directory / "summary.json")
        last = [r["step"] for r in records if r["phase"] in ("base", "online") and "score" in r]
        if last[-1:] != [config["online_steps"] or config["offline_steps"]]:
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
