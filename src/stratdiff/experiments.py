"""An experiment: a declared file of tasks × variants × seeds, and the runs that it asks for.

Every cell (task, variant) is one run of all its seeds in a process of its own, in OUT/TASK/VARIANT.
Cells that would pre-train alike share the offline phases (training/shared.py).
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stratdiff import registry
from stratdiff.config import (
    Config,
    config_of,
    first_difference,
    override,
    read_config,
    table_to_config,
)
from stratdiff.data.sources import check
from stratdiff.errors import UserError, nearest
from stratdiff.training.loop import resume, train

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
# What XLA and NumPy's matrix products take their number of threads from.
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_KEYS = ("preset", "seeds", "options", "tasks", "variants")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of an experiment."""

    task: str
    variant: str
    config: Config

    @property
    def name(self) -> str:
        """TASK/VARIANT, also its place below the experiment's folder."""
        return f"{self.task}/{self.variant}"


def read_spec(path: str | Path) -> list[Cell]:
    """The cells of an experiment's TOML file, task by task.

    Options of a run (`stratdiff train --help`) stand in `[options]`, for all cells; in
    `[tasks.NAME]`, with the `dataset`; and in `[variants.NAME]`. Later ones win, in this order.
    `tasks` in a variant: the tasks that it is run on; default: all.

    Raises:
        UserError: the file is missing, is no TOML, or asks for something that no run can do.
    """
    path = Path(path)
    try:
        spec = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"experiment file {str(path)!r} does not exist.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"experiment file {str(path)!r} could not be read as TOML: {error}."
        ) from error

    def fail(what: str) -> UserError:
        return UserError(f"experiment file {str(path)!r}: {what}")

    for key in spec:
        if key not in _KEYS:
            raise fail(f"unknown key {key!r}; nearest: {nearest(key, _KEYS)}.")
    for kind in ("tasks", "variants"):
        named = spec.get(kind, {})
        if not isinstance(named, dict) or not all(isinstance(x, dict) for x in named.values()):
            raise fail(f"{kind} is {named!r}; give a table [{kind}.NAME] for each.")
        if not named:
            raise fail(f"no [{kind}.NAME] was found; give one or more.")
        for name in named:
            if name == "pretrained" or not _NAME.fullmatch(name):
                raise fail(
                    f"[{kind}.{name}] names a folder; use letters, digits and . _ = + - only, and "
                    "not 'pretrained'."
                )
    common = spec.get("options", {})
    if not isinstance(common, dict):
        raise fail(f"options is {common!r}; it must be a table [options].")
    cells = []
    for task, of_task in spec["tasks"].items():
        if "dataset" not in of_task:
            raise fail(f"[tasks.{task}] has no dataset; give a name or an HDF5 file's path.")
        for variant, of_variant in spec["variants"].items():
            own = dict(of_variant)
            tasks = own.pop("tasks", list(spec["tasks"]))
            if not isinstance(tasks, list) or any(t not in list(spec["tasks"]) for t in tasks):
                raise fail(
                    f"variants.{variant}.tasks is {tasks!r}; it must be a list of names of tasks."
                )
            for key in own:
                if key in ("preset", "dataset"):
                    where = "at the top of the file" if key == "preset" else "in a task"
                    raise fail(f"variants.{variant}.{key} must stand {where}.")
                if key[0].isdigit():
                    raise fail(
                        f"[variants.{variant}.{key}] is a table within a table; a name with a dot "
                        f'needs quotes: [variants."{variant}.{key}"].'
                    )
            if task not in tasks:
                continue
            options: dict[str, Any] = {}
            for table in (common, of_task, own):
                override(options, table)
            if "preset" in options:
                raise fail(f"{task}/{variant}: preset must stand at the top of the file.")
            if "seeds" in spec:
                options.setdefault("seeds", spec["seeds"])
            try:
                config = config_of(options, spec.get("preset", "paper"))
                check(config.dataset, config.env)
            except UserError as error:
                said = str(error).removeprefix("the options given: ")
                raise fail(f"{task}/{variant}: {said}") from error
            cells.append(Cell(task, variant, config))
    if not cells:
        raise fail("no cell is left: every variant's `tasks` is empty.")
    return cells


def compare(
    cells: list[Cell], out: str | Path, ray: bool = False, say: Callable[[str], None] = print
) -> dict[str, str]:
    """Do the runs that are missing below `out`; what is done is skipped, what was cut off goes on.

    `ray`: on a Ray cluster (the one that is running, or one of this machine's cores); `out` and
    the data must be reachable from all of its machines.

    Returns:
        What went wrong, by cell's name.

    Raises:
        UserError: `out` cannot be written, or Ray is asked for and is not installed.
    """
    out = Path(out)
    try:
        (out / "pretrained").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out is {str(out)!r}, where no folder can be made ({error.strerror}); give another."
        ) from error
    failed: dict[str, str] = {}
    waiting = []
    for cell in cells:
        state, reason = _state(cell, out / cell.name)
        if state == "other":
            failed[cell.name] = reason
        elif state == "open":
            waiting.append(cell)
    done = len(cells) - len(waiting) - len(failed)
    say(f"{len(cells)} cells: {done} done before, {len(failed)} that cannot be run")
    trusted = registry.trusted()  # the processes of the cells are told nothing else
    if ray:
        finished = _with_ray(waiting, out, trusted)
    else:
        finished = ((cell, _run_apart(cell, out, trusted)) for cell in waiting)
    for i, (cell, wrong) in enumerate(finished, 1):
        if wrong:
            failed[cell.name] = wrong
        say(f"{i}/{len(waiting)} {cell.name}: {wrong or _result(out / cell.name)}")
    return failed


def _state(cell: Cell, directory: Path) -> tuple[str, str]:
    """("open", "done" or "other": it cannot be run, why)."""
    path = directory / "config.json"
    if not path.exists():
        return "open", ""
    try:
        found = read_config(path)
    except UserError as error:
        return "other", f"{error} Remove {str(directory)!r} to train that cell anew."
    wanted = cell.config
    if not wanted.env:  # the run wrote down the one that its data names
        wanted = dataclasses.replace(wanted, env=found.env)
    differs = first_difference(found, wanted)
    if differs:
        return "other", (
            f"{str(directory)!r} holds a run with {differs} as the experiment asks for; give "
            "another --out, or remove that run."
        )
    return ("done" if _summary(directory) else "open"), ""


def _summary(directory: Path) -> dict[str, Any]:
    """A finished run's summary.json; empty where it cannot be read, and so is made again."""
    try:
        found = json.loads((directory / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _result(directory: Path) -> str:
    summary = _summary(directory)
    minutes = sum(summary["seconds"].values()) / 60
    scores = {when: found["mean"] for when, found in summary["score"].items()}
    text = " -> ".join(f"{score:.1f}" for score in scores.values())
    return f"{text} ({len(summary['seeds'])} seeds, {minutes:.1f} minutes of training)"


def _run_apart(cell: Cell, out: Path, trusted: list[str], cores: int | None = None) -> str:
    """Run a cell in a process of its own, on so many cores; what went wrong, or ''.

    A process that is killed takes no other cell with it, and leaves no compiled programs behind.
    """
    job = json.dumps([cell.name, str(out), cell.config.to_table(), trusted])
    command = [sys.executable, "-m", "stratdiff.experiments"]
    threads = {} if cores is None else dict.fromkeys(_THREADS, str(cores))
    done = subprocess.run(
        command, input=job, stdout=subprocess.PIPE, text=True, env=os.environ | threads
    )
    if done.returncode == 0:
        return ""
    said = done.stdout.strip().splitlines()
    return " ".join(said) or f"its process ended with {done.returncode}"


def _with_ray(cells: list[Cell], out: Path, trusted: list[str]) -> Iterator[tuple[Cell, str]]:
    """The cells on a Ray cluster, one a core or, where it has any, one a GPU; as they finish."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray; install it with pip install 'stratdiff[ray]'.") from error
    try:
        ray.init(address="auto")
    except ConnectionError:
        ray.init(include_dashboard=False)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_run_apart)
        cores = None if gpus else 1
        jobs = {run.remote(cell, out.absolute(), trusted, cores): cell for cell in cells}
        while jobs:
            ready, _ = ray.wait(list(jobs))
            for job in ready:
                cell = jobs.pop(job)
                try:
                    yield cell, ray.get(job)
                except ray.exceptions.RayError as error:
                    yield cell, f"Ray lost it: {error}"
    finally:
        ray.shutdown()


def _job() -> int:
    """The process of one cell: the job is on standard input, what went wrong on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an environment prints is no answer
    name, out, options, trusted = json.loads(sys.stdin.read())
    registry.trust(*trusted)
    directory, shared = Path(out) / name, Path(out) / "pretrained"
    try:
        if (directory / "config.json").is_file():
            resume(directory, shared=shared)
        else:
            train(table_to_config(options, name), directory, shared=shared)
    except UserError as error:
        print(error, file=answers)
    except KeyboardInterrupt:
        print("interrupted", file=answers)
    except Exception as error:  # the other cells go on
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=answers)
    else:
        return 0
    answers.flush()
    return 2


if __name__ == "__main__":
    sys.exit(_job())
