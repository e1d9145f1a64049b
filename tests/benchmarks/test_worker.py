"""Timing by workers, on cases of known length."""

import os
import time
from pathlib import Path

import pytest

from benchmarks.worker import Timing, Worker, ratio, take_turns

ROOT = Path(__file__).parents[2]


def _sleep(seconds=0.004):
    def run(n):
        print("said by a library")  # must not be taken for an answer
        time.sleep(n * seconds)

    run.units = 2
    run.flop = {"float32": 1e6}
    return run


CASES = {"sleep": _sleep}


@pytest.fixture
def worker():
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    with Worker("test_worker", env) as worker:
        yield worker


def test_milliseconds_per_unit_and_ratios(worker):
    names = ["sleep", 'sleep {"seconds": 0.012}']
    short, long = take_turns([(worker, name) for name in names], rounds=3, slice_seconds=0.05)
    assert 2 <= short.median < 4
    assert ratio(long, short) == pytest.approx(3, rel=0.25)
    assert short.flop == {"float32": 1e6}
    assert short.first_seconds >= 0.004


def test_ratio_is_paired():
    slow_machine = Timing((1.0, 4.0, 1.0), 0, 0, {}), Timing((2.0, 8.0, 2.0), 0, 0, {})
    assert ratio(*slow_machine) == 0.5


def test_a_case_that_dies_is_named(worker):
    with pytest.raises(RuntimeError, match="'nothing' ended"):
        worker.ask("nothing", 1)
