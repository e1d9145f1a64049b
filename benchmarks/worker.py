"""Timing in processes of their own, taken in turns.

A worker imports one module with `CASES: dict[name, builder]`. A builder returns run(n), which does
n times a piece of work (`run.units` units of it, default 1) and returns when it is done. So each
library has the machine's cores, its own thread pool and its own memory to itself while all others
sleep; and as cases are timed in turns, what disturbs the machine disturbs all alike.

A case is a name, or a name and its options as JSON: `iql offline {"batch_size": 512}`.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Worker:
    """A process that times the cases of `module`."""

    def __init__(self, module: str, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict(env or {}),
        )

    def ask(self, case: str, n: int) -> dict[str, Any]:
        """Call run(n) of a case: its `seconds` and `units`, and the process's `peak_mb` so far.

        Also the `first_seconds` that building the case and its first run(1) took, and the `flop` of
        one unit by type of operand, where the case knows them.

        Raises:
            RuntimeError: the process ended; what it said is on the terminal.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps([case, n]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the worker process of {case!r} ended")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds per unit, one value a round; the first call includes compiling."""

    rounds: tuple[float, ...]
    first_seconds: float
    peak_mb: float
    flop: dict[str, float]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.rounds))

    def record(self) -> dict[str, object]:
        """What goes into the JSON."""
        low, median, high = np.percentile(self.rounds, (25, 50, 75)).tolist()
        return {
            "ms": {"q1": low, "median": median, "q3": high},
            "first_seconds": self.first_seconds,
            "peak_mb": self.peak_mb,
            "flop": self.flop,
            "rounds": len(self.rounds),
        }


def take_turns(
    cases: Sequence[tuple[Worker, str]], rounds: int = 7, slice_seconds: float = 0.4
) -> list[Timing]:
    """Time all cases, one slice each a round."""
    first, n = [], []
    for worker, case in cases:
        first.append(worker.ask(case, 1))
        some = worker.ask(case, 2)["seconds"] / 2
        n.append(max(1, min(1000, round(slice_seconds / max(some, 1e-6)))))
    taken: list[list[float]] = [[] for _ in cases]
    peak = [0.0] * len(cases)
    for _ in range(rounds):
        for i, (worker, case) in enumerate(cases):
            answer = worker.ask(case, n[i])
            taken[i].append(1000 * answer["seconds"] / answer["units"])
            peak[i] = answer["peak_mb"]
    return [
        Timing(tuple(t), f["first_seconds"], p, f["flop"])
        for t, f, p in zip(taken, first, peak, strict=True)
    ]


def ratio(a: Timing, b: Timing) -> float:
    """Median over the rounds of the time of `a` over that of `b`."""
    return float(np.median(np.array(a.rounds) / np.array(b.rounds)))


def _serve(module: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    cases = importlib.import_module(module).CASES
    built: dict[str, Any] = {}
    first: dict[str, float] = {}
    for line in sys.stdin:
        name, n = json.loads(line)
        answer: dict[str, Any] = {}
        if name not in built:
            start = time.perf_counter()
            case, _, options = name.partition(" {")
            built[name] = cases[case](**json.loads("{" + options if options else "{}"))
            built[name](1)
            first[name] = time.perf_counter() - start
        start = time.perf_counter()
        built[name](n)
        answer["seconds"] = time.perf_counter() - start
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer["first_seconds"] = first[name]
        answer["flop"] = getattr(built[name], "flop", {})
        answer["units"] = n * getattr(built[name], "units", 1)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
