"""An experiment: a declared file of tasks × variants × seeds, and the runs that it asks for.

Every cell (task, variant) is one run of all its seeds in a process of its own, in OUT/TASK/VARIANT.
Cells that would pre-train alike share the offline phases (training/shared.py).
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stratdiff import process, registry
from stratdiff.config import Config, config_of, difference, read_config, table_to_config
from stratdiff.data.sources import absolute, check
from stratdiff.errors import UserError, nearest
from stratdiff.files import lock_directory
from stratdiff.presets import override
from stratdiff.reading import SMALL, read_table, read_toml
from stratdiff.sinks.progress import number
from stratdiff.training.loop import resume, train

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
# What XLA and NumPy's matrix products take their number of threads from.
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Seconds that a cell's process has for its last checkpoint.
_GRACE = 60.0
_KEYS = ("preset", "seeds", "options", "tasks", "variants")


class Cell(NamedTuple):
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
    where = f"experiment file {str(path)!r}"
    spec = read_toml(path, "experiment file")

    def expect(holds: Any, what: str) -> None:
        if not holds:
            raise UserError(f"{where}: {what}")

    for key in spec:
        expect(key in _KEYS, f"unknown key {key!r}; nearest: {nearest(key, _KEYS)}.")
    for kind in ("tasks", "variants"):
        named = spec.get(kind, {})
        whole = isinstance(named, dict) and all(isinstance(x, dict) for x in named.values())
        expect(whole, f"{kind} is {named!r}; give a table [{kind}.NAME] for each.")
        expect(named, f"no [{kind}.NAME] was found; give one or more.")
        for name in named:
            allowed = "use letters, digits and . _ = + - only, and not 'pretrained'"
            folder = name != "pretrained" and _NAME.fullmatch(name)
            expect(folder, f"[{kind}.{name}] names a folder; {allowed}.")
    cells, common = [], spec.get("options", {})
    expect(isinstance(common, dict), f"options is {common!r}; it must be a table [options].")
    for task, of_task in spec["tasks"].items():
        said = f"[tasks.{task}] has no dataset; give a name or an HDF5 file's path."
        expect("dataset" in of_task, said)
        for variant, of_variant in spec["variants"].items():
            own = dict(of_variant)
            tasks = own.pop("tasks", [*spec["tasks"]])
            known = isinstance(tasks, list) and all(t in [*spec["tasks"]] for t in tasks)
            said = f"variants.{variant}.tasks is {tasks!r}; it must be a list of names of tasks."
            expect(known, said)
            for key in own:
                option = f"variants.{variant}.{key}"
                place = {"preset": "at the top of the file", "dataset": "in a task"}.get(key)
                expect(not place, f"{option} must stand {place}.")
                quoted = f'a name with a dot needs quotes: [variants."{variant}.{key}"]'
                said = f"[{option}] is a table within a table; {quoted}."
                expect(not key[0].isdigit(), said)
            if task not in tasks:
                continue
            options = {"seeds": spec["seeds"]} if "seeds" in spec else {}
            for table in (common, of_task, own):
                override(options, table)
            cell = f"{task}/{variant}"
            expect("preset" not in options, f"{cell}: preset must stand at the top of the file.")
            try:
                config = config_of(options, spec.get("preset", "paper"))
                check(config.dataset, config.environment)
            except UserError as error:
                said = str(error).removeprefix("the options given: ")
                raise UserError(f"{where}: {cell}: {said}") from error
            cells.append(Cell(task, variant, config))
    expect(cells, "no cell is left: every variant's `tasks` is empty.")
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
        said = f"where no folder can be made ({error.strerror}); give another."
        raise UserError(f"--out is {str(out)!r}, {said}") from error
    stopped = {cell.name: _obstacle(cell, out / cell.name) for cell in cells}
    failed = {name: reason for name, reason in stopped.items() if reason}
    waiting = [c for c in cells if c.name not in failed and not _summary(out / c.name)]
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


def _obstacle(cell: Cell, directory: Path) -> str:
    """Why the cell cannot be run there, or ''."""
    path = directory / "config.json"
    if not path.exists():
        return ""
    try:
        found = read_config(path)
    except UserError as error:
        return f"{error} Remove {str(directory)!r} to train that cell anew."
    # Where it gives no environment, the run wrote down the one that its data names.
    named = {key: getattr(cell.config, key) or getattr(found, key) for key in ("env", "env_spec")}
    named["dataset"] = absolute(cell.config.dataset)
    wanted = dataclasses.replace(cell.config, **named)
    other = difference(found, wanted)
    return other and (
        f"{str(directory)!r} holds a run with {other}, which the experiment asks for; give another "
        "--out, or remove that run."
    )


def _summary(directory: Path) -> dict[str, Any]:
    """A finished run's summary.json; empty where it cannot be read, and so is made again."""
    found: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        found = read_table(directory / "summary.json", "summary", SMALL)
    return found if (directory / "config.json").exists() else {}


def _result(directory: Path) -> str:
    summary = _summary(directory)
    scores = " -> ".join(number(found["mean"]) for found in summary["score"].values())
    minutes = sum(summary["seconds"].values()) / 60
    return f"{scores} ({len(summary['seeds'])} seeds, {minutes:.1f} minutes of training)"


def _run_apart(cell: Cell, out: Path, trusted: list[str], cores: int | None = None) -> str:
    """Run a cell in a process of its own, on so many cores; what went wrong, or ''.

    A process that is killed takes no other cell with it, and leaves no compiled programs behind. It
    has a session of its own: a signal reaches this process, which then stops it and waits. Its
    standard input stays open, so that it ends when this process is gone.
    """
    job = json.dumps([cell.name, str(out), cell.config.to_table(), trusted])
    command = [sys.executable, "-m", "stratdiff.experiments"]
    env = os.environ | ({} if cores is None else dict.fromkeys(_THREADS, str(cores)))
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    text: Any = {"encoding": "utf-8", "errors": "replace"}
    child: Any
    with subprocess.Popen(command, env=env, start_new_session=True, **pipes, **text) as child:
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once
                child.stdin.write(f"{job}\n")
                child.stdin.flush()
            said = " ".join(child.stdout.read().strip().splitlines())
            child.wait()
        except KeyboardInterrupt:
            child.terminate()  # it takes a checkpoint
            try:
                child.wait(_GRACE)
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                child.kill()
            raise
    return (said or f"its process ended with {child.returncode}") if child.returncode else ""


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
        gpus, cores = (1, None) if ray.cluster_resources().get("GPU") else (0, 1)
        run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_run_apart)
        jobs = {run.remote(cell, out.absolute(), trusted, cores): cell for cell in cells}
        while jobs:
            (job,), _ = ray.wait(list(jobs))
            cell = jobs.pop(job)
            try:
                yield cell, ray.get(job)
            except ray.exceptions.RayError as error:
                yield cell, f"Ray lost it: {error}"
    finally:
        ray.shutdown()


def _job() -> int:
    """The process of one cell: the job is on standard input, what went wrong on standard output."""
    process.take_signals(terminal_may_close=True)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an environment prints is no answer
    process.last(1), process.last(2)
    pipe = os.dup(0)
    with open(pipe, encoding="utf-8", closefd=False) as lines:
        name, out, options, trusted = json.loads(lines.readline())
    process.follow_parent(pipe)
    registry.trust(*trusted)
    directory, shared = Path(out) / name, Path(out) / "pretrained"
    try:
        with lock_directory(directory, wait=_GRACE):
            pass  # an earlier compare was killed, and its process is at its last checkpoint
        if (directory / "config.json").is_file():
            resume(directory, shared=shared)
        else:
            train(table_to_config(options, name), directory, shared=shared)
        return 0
    except (UserError, KeyboardInterrupt) as error:
        said = str(error) or "interrupted"
    except Exception as error:  # the other cells go on
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
    with contextlib.suppress(BrokenPipeError):
        print(said, file=answers, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(_job())
