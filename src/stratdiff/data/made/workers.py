"""Worker processes that make the chunks of a set.

`python -m stratdiff.data.made.workers NAME SIZE SEED FOLDER CHUNK...` is one of them.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff import process
from stratdiff.data.made.lanes import TOGETHER, Arrays, Part, trim
from stratdiff.data.made.recipes import find
from stratdiff.data.sources import Progress
from stratdiff.errors import RunStopped, UserError
from stratdiff.files import replacing
from stratdiff.reading import read_npz


def collect(part: Part, work: Path, jobs: int | None, progress: Progress | None) -> Arrays:
    """All rows, by `jobs` processes (default: one a core).

    Each chunk is kept in the folder `work` until the end, so an interrupted call resumes there.
    """
    files = [work / f"{i}.npz" for i in range(part.chunks)]
    chunks = {i: chunk for i, file in enumerate(files) if (chunk := _finished(file)) is not None}
    missing = [i for i in range(part.chunks) if i not in chunks]
    jobs = min(jobs or process.cores(), len(missing))
    done = [0] * max(jobs, 1)
    already = (part.chunks - len(missing)) * TOGETHER * part.lane_rows

    def tick(worker: int, rows: int) -> None:
        done[worker] = rows
        if progress is not None:
            progress(min(already + sum(done), part.size), part.size)

    if jobs <= 1:
        _work(part, work, missing, lambda rows: tick(0, rows))
    else:
        _spawn(part, work, [missing[i::jobs] for i in range(jobs)], tick)
    lanes: list[Arrays] = []
    for i in range(part.chunks):
        chunk = chunks.pop(i, None) or read_npz(files[i], "chunk")
        stops = np.cumsum(chunk.pop("lanes"))[:-1]
        split = {key: np.split(rows, stops) for key, rows in chunk.items()}
        lanes += [dict(zip(split, rows, strict=True)) for rows in zip(*split.values(), strict=True)]
    if not part.recipe.maze:  # a maze's episodes all have one length
        trim(lanes, part.size)
    return {key: np.concatenate([lane[key] for lane in lanes])[: part.size] for key in lanes[0]}


def _finished(file: Path) -> Arrays | None:
    """A chunk that an earlier call has made; None: it is missing or damaged, and made again."""
    try:
        return read_npz(file, "chunk")
    except UserError:
        return None


def _work(part: Part, work: Path, numbers: list[int], tick: Callable[[int], None]) -> None:
    """Make some chunks and write them into the folder `work`."""
    made = 0
    for number in numbers:
        arrays = part.chunk(number, made, tick)
        made += len(arrays["rewards"])
        try:
            with replacing(work / f"{number}.npz") as partial, partial.open("wb") as out:
                np.savez(out, allow_pickle=False, **arrays)
        except OSError as error:
            raise UserError(
                f"folder {str(work)!r} for made data sets cannot be written ({error.strerror}); "
                "free some space, or choose another with the environment variable STRATDIFF_CACHE."
            ) from error


def _spawn(
    part: Part, work: Path, shares: list[list[int]], tick: Callable[[int, int], None]
) -> None:
    """Run one process of this module for each share of the chunks (see `_worker`).

    Not multiprocessing, which would import the user's own script again.
    """
    name = part.recipe.name
    base = [sys.executable, "-m", __spec__.name, name, str(part.size), str(part.seed), str(work)]
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def follow(i: int) -> str:
        for line in workers[i].stdout:
            tick(i, int(line))
        text = workers[i].stderr.read()
        workers[i].wait()
        return text

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(shares)) as pool:
        commands = [[*base, *map(str, share)] for share in shares]
        workers: list[Any] = [
            stack.enter_context(subprocess.Popen(command, env=env, **pipes)) for command in commands
        ]
        try:
            errors = list(pool.map(follow, range(len(workers))))
        finally:  # also when this process is interrupted
            for worker in workers:
                worker.kill()
    for worker, text in zip(workers, errors, strict=True):
        if worker.returncode == 2:
            raise UserError(text.strip())
        if worker.returncode:
            last = (text.strip().splitlines() or ["it said nothing"])[-1]
            raise RunStopped(
                f"a process that makes {name} ended with {worker.returncode} ({last}); what was "
                "made is kept, so run the command again (--jobs 1 needs the least memory)."
            )


def _worker(args: list[str]) -> int:
    """NAME SIZE SEED FOLDER CHUNK...: make these chunks, print the rows made so far."""
    name, size, seed, work, *numbers = args
    part = Part(find(name), int(size), int(seed))
    try:
        _work(part, Path(work), [int(n) for n in numbers], lambda rows: print(rows, flush=True))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_worker(sys.argv[1:]))
