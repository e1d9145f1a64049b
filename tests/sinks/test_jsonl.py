"""metrics.jsonl: what is written, cut back after a kill, and read again."""

import contextlib
import json

import numpy as np
import pytest

from stratdiff.errors import UserError
from stratdiff.sinks.base import LogPoint, Sink
from stratdiff.sinks.jsonl import MetricsLog, read_metrics


@contextlib.contextmanager
def opened(directory):
    log = MetricsLog(directory, {})
    yield log
    log.close()


def write(directory, steps, rewind=0):
    with opened(directory) as log:
        log.rewind(rewind, 0)
        for step in steps:
            log.log(LogPoint("base", step, step, 0.5 * step), {"loss": np.array([step, 2.0])})
    return directory / "metrics.jsonl"


def steps_of(path):
    return [record["step"] for record in read_metrics(path)]


def test_it_is_a_sink(tmp_path):
    with opened(tmp_path) as log:
        assert isinstance(log, Sink)


def test_a_log_point_is_a_line(tmp_path):
    metrics = {
        "loss": np.array([1.23456789, np.nan], np.float32),
        "score": np.array([np.inf, -0.0]),
    }
    with opened(tmp_path) as log:
        log.rewind(0, 0)
        log.log(LogPoint("online", 20, 180, 3.14159), metrics)
        text = (tmp_path / "metrics.jsonl").read_text()  # before it is closed: it is on the disk
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "phase": "online",
        "step": 20,
        "time": 3.142,
        "loss": [1.23457, None],
        "score": [None, 0.0],
    }


@pytest.mark.parametrize("end", ["", '{"phase": "ba', '{"phase": "base", "step": 4}', "\xff"])
def test_a_resumed_run_goes_on_after_the_points_of_its_checkpoint(tmp_path, end):
    """What a killed process left in the last line is dropped, whole or not."""
    path = write(tmp_path, (1, 2, 3))
    with path.open("a", encoding="latin-1") as file:
        file.write(end)
    write(tmp_path, (30, 40), rewind=2)
    assert steps_of(path) == [1, 2, 30, 40]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = write(tmp_path, (1, 2, 3))
    path.write_bytes(path.read_bytes()[:-4])
    assert steps_of(path) == [1, 2]


@pytest.mark.parametrize("line", [b'{"step": 2', b"\xff\xfe", b"[2]", b"2", b""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = write(tmp_path, (1, 2, 3))
    lines = path.read_bytes().splitlines()
    lines[1] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl': line 2 is damaged") as caught:
        read_metrics(path)
    assert str(caught.value).count(". ") == 0 and "\n" not in str(caught.value)
    # A resumed run says so at once, not when it has trained to its end.
    with opened(tmp_path) as log, pytest.raises(UserError, match="line 2 is damaged"):
        log.rewind(3, 3)


def test_a_damaged_line_after_the_checkpoint_is_dropped(tmp_path):
    path = write(tmp_path, (1, 2, 3))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"#", lines[2]]) + b"\n")
    write(tmp_path, (7,), rewind=1)
    assert steps_of(path) == [1, 7]


def test_log_points_that_were_lost_are_counted(tmp_path):
    write(tmp_path, (1, 2))
    lost = r"metrics\.jsonl' has 2 log points.*taken at 3"
    with opened(tmp_path) as log, pytest.raises(UserError, match=lost):
        log.rewind(3, 3)
