"""The runs of an experiment as processes of their own: one after another, side by side, on Ray."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from stratdiff import process, registry
from stratdiff.config import Config, table_to_config
from stratdiff.errors import UserError
from stratdiff.files import lock_directory
from stratdiff.sinks.board import Told
from stratdiff.training.loop import resume, train
from stratdiff.training.shared import options_read

# What XLA and NumPy's matrix products take their number of threads from.
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# The share of a GPU's memory that a process takes at once; JAX's own is 0.75.
_MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# Seconds that the processes of cells have for their last checkpoints.
_GRACE = 60.0

Child = subprocess.Popen[str]
Tell = Callable[[str, list[Any]], None]
"""Takes a cell's name and what its process told (`sinks.board.Told`)."""


class Cell(NamedTuple):
    """One run of an experiment."""

    task: str
    variant: str
    config: Config

    @property
    def name(self) -> str:
        """TASK/VARIANT, also its place below the experiment's folder."""
        return f"{self.task}/{self.variant}"


def side_by_side(
    cells: list[Cell], out: Path, trusted: list[str], jobs: int, tell: Tell, **env: str
) -> Generator[tuple[Cell, str], None, None]:
    """The cells and what went wrong with each, or ''; `jobs` processes at a time, as they finish.

    A process that is killed takes no other cell with it, and leaves no compiled programs behind. It
    has a session of its own: a signal reaches this process, which then stops them all and waits.
    Their standard inputs stay open, so that they end when this process is gone. `env`: further
    variables of their environments.
    """
    waiting, order = [*cells], _Order(cells)
    running: dict[str, _Running] = {}
    said: dict[str, str] = {}
    heard: SimpleQueue[tuple[str, list[Any]]] = SimpleQueue()
    cores = _parts(jobs)
    if jobs > 1:  # the bits of a run depend on the number of threads, not on that of the cores
        own = dict.fromkeys(_THREADS, str(process.cores())) | {_MEMORY: f"{0.75 / jobs:.2f}"}
        env = {key: os.environ.get(key, value) for key, value in own.items()} | env

    def listen(name: str, child: Child) -> None:
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # cut off, of a process that was killed
                    heard.put((name, json.loads(line)))
        child.wait()
        heard.put((name, ["end"]))

    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = order.first(waiting, [*running])
                waiting.remove(cell)
                place = min({*range(jobs)} - {one.place for one in running.values()})
                with _on(cores[place]):
                    child = _started(cell, out, trusted, env)
                listener = threading.Thread(target=listen, args=(cell.name, child), daemon=True)
                running[cell.name] = _Running(cell, child, place, listener)
                listener.start()
                tell(cell.name, ["start"])
            name, event = heard.get()
            if event[0] == "failed":
                said[name] = event[1]
                continue
            order.note(name, event)
            if event[0] != "end":
                tell(name, event)
                continue
            ended = running.pop(name)
            ended.close()
            code = ended.child.returncode
            yield ended.cell, (said.get(name) or f"its process ended with {code}") if code else ""
    finally:
        _stop([*running.values()])


class _Running(NamedTuple):
    """The process of a cell."""

    cell: Cell
    child: Child
    place: int
    """Which part of the cores it has."""
    listener: threading.Thread

    def close(self) -> None:
        """The process has ended."""
        self.listener.join()
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()  # type: ignore[union-attr]


def _started(cell: Cell, out: Path, trusted: list[str], env: dict[str, str]) -> Child:
    job = json.dumps([cell.name, str(out), cell.config.to_table(), trusted])
    child = subprocess.Popen(
        [sys.executable, "-m", "stratdiff.cells"],
        env=os.environ | env,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once
        child.stdin.write(f"{job}\n")
        child.stdin.flush()
    return child


def _stop(running: list[_Running]) -> None:
    """Let each take a checkpoint; a second signal, or the end of the time, kills those left."""
    for one in running:
        one.child.terminate()
    end = time.monotonic() + _GRACE
    try:
        for one in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.child.wait(max(end - time.monotonic(), 0.0))
    finally:
        for one in running:
            one.child.kill()
            one.close()


class _Order:
    """Which cell comes next: cells that would wait for the same phase are kept apart."""

    def __init__(self, cells: list[Cell]) -> None:
        self._phases = {cell.name: _phases(cell) for cell in cells}
        self._trained: set[str] = set()

    def note(self, name: str, event: list[Any]) -> None:
        """What a cell's process told: a phase that begins ends those before it."""
        phases = self._phases[name]
        names = [phase for phase, _, _ in phases]
        if event[0] == "begin" and event[1] in names:
            phases = phases[: names.index(event[1])]
        elif event[:2] != ["begin", "online"] and event[0] != "end":
            return
        self._trained |= {key for _, key, _ in phases}

    def first(self, waiting: list[Cell], running: list[str]) -> Cell:
        """The first of the cells that have the fewest steps to wait for beside the running ones."""
        taken = {key for name in running for _, key, _ in self._phases[name]} - self._trained
        return min(
            waiting,
            key=lambda cell: sum(n for _, key, n in self._phases[cell.name] if key in taken),
        )


def _phases(cell: Cell) -> list[tuple[str, str, int]]:
    """(name, what decides its result, steps) of the phases that cells share."""
    phases = cell.config.algorithm(1, 1, 1.0).phases()
    about = {"dataset": cell.config.dataset}
    return [
        (
            phase.name,
            phase.name + json.dumps(about | options_read(phase, phases, cell.config), default=str),
            getattr(phase, "steps", 1),
        )
        for phase in phases
    ]


def _parts(jobs: int) -> list[list[int]]:
    """This process's cores in `jobs` equal parts; empty where the system does not tell."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [[]] * jobs
    cores = sorted(os.sched_getaffinity(0))
    each = max(len(cores) // jobs, 1)
    return [[cores[(place * each + i) % len(cores)] for i in range(each)] for place in range(jobs)]


@contextlib.contextmanager
def _on(cores: list[int]) -> Iterator[None]:
    """Processes that are started here run on these cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def on_ray(
    cells: list[Cell], out: Path, trusted: list[str]
) -> Generator[tuple[Cell, str], None, None]:
    """The cells on a Ray cluster, one a core or, where it has any, one a GPU; as they finish.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray; install it with pip install 'stratdiff[ray]'.") from error
    try:
        ray.init(address="auto")
    except ConnectionError:
        ray.init(include_dashboard=False)
    try:
        one: dict[str, str] = dict.fromkeys(_THREADS, "1")
        gpus, threads = (1, {}) if ray.cluster_resources().get("GPU") else (0, one)
        run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_one)
        jobs = {run.remote(cell, out.absolute(), trusted, threads): cell for cell in cells}
        while jobs:
            (job,), _ = ray.wait(list(jobs))
            cell = jobs.pop(job)
            try:
                yield cell, ray.get(job)
            except ray.exceptions.RayError as error:
                yield cell, f"Ray lost it: {error}"
    finally:
        ray.shutdown()


def _one(cell: Cell, out: Path, trusted: list[str], env: dict[str, str]) -> str:
    """What goes wrong with one cell, or ''."""
    ((_, wrong),) = side_by_side([cell], out, trusted, 1, lambda *_: None, **env)
    return wrong


def _job() -> int:
    """The process of one cell: the job is on standard input, what it tells on standard output."""
    process.take_signals(terminal_may_close=True)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an environment prints is no answer
    process.last(1), process.last(2)
    pipe = os.dup(0)
    with open(pipe, encoding="utf-8", closefd=False) as lines:
        name, out, options, trusted = json.loads(lines.readline())
    process.follow_parent(pipe)
    registry.trust(*trusted)
    directory, shared, reporter = Path(out) / name, Path(out) / "pretrained", Told(told)
    try:
        with lock_directory(directory, wait=_GRACE):
            pass  # an earlier compare was killed, and its process is at its last checkpoint
        if (directory / "config.json").is_file():
            resume(directory, reporter=reporter, shared=shared)
        else:
            train(table_to_config(options, name), directory, reporter=reporter, shared=shared)
        return 0
    except (UserError, KeyboardInterrupt) as error:
        said = str(error) or "interrupted"
    except Exception as error:  # the other cells go on
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
    reporter.tell("failed", " ".join(said.split()))
    return 2


if __name__ == "__main__":
    sys.exit(_job())
