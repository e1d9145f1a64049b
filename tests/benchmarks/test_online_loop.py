"""The measured online loop is that of a real run."""

import time

import pytest

from benchmarks import loop


@pytest.mark.slow
def test_shares_of_a_runs_time():
    start = time.perf_counter()
    found = loop.run(50, base="iql", score="none", batch_size=8)
    wall = time.perf_counter() - start
    assert 49 / found["steps_per_second"] + found["compile_seconds"] < wall
    assert {*found["share"]} == {"device", "environment", "python"}
    assert all(0 < share < 1 for share in found["share"].values())
