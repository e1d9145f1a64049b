"""metrics.jsonl: what is written, cut back after a kill, and read again."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from stratdiff.errors import RunStopped, UserError
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
    record = {
        "phase": "online",
        "step": 20,
        "time": 3.142,
        "loss": [1.23457, None],
        "score": [None, 0.0],
    }
    assert json.loads(text).keys() == record.keys() | {"crc32"}
    assert read_metrics(tmp_path / "metrics.jsonl") == [record]


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


@pytest.mark.parametrize(
    "line",
    [
        *(b'{"step": 2', b"\xff\xfe", b"[2]", b"2", b"", b"[" * 100_000, b"1" * 5000),
        b'{"step": 2, "time": 1.0, "loss": [1.0]}',
        b'{"phase": "base", "time": 1.0, "loss": [1.0]}',
        b'{"phase": "base", "step": 2.0, "time": 1.0, "loss": [1.0]}',
        b'{"phase": "base", "step": true, "time": 1.0, "loss": [1.0]}',
        b'{"phase": "base", "step": 2, "time": "1", "loss": [1.0]}',
        b'{"phase": "base", "step": 2, "time": 1.0, "loss": 1.0}',
        b'{"phase": "base", "step": 2, "time": 1.0, "loss": ["1"]}',
        b'{"phase": "base", "step": 2, "time": 1.0, "loss": [NaN]}',
        b'{"phase": "base", "step": 2, "time": 1.0, "loss": [1' + b"0" * 400 + b"]}",
    ],
)
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


def test_no_damage_of_a_byte_is_read_as_another_number(tmp_path):
    """Every byte of the middle line, one after the other: the same content, or it is named."""
    path = write(tmp_path, (1, 2, 3))
    whole, records = path.read_bytes(), read_metrics(path)
    second = whole.index(b"\n") + 1
    for place in range(second, whole.index(b"\n", second) + 1):
        for flip in (0x01, 0x10, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            try:
                assert read_metrics(path) == records
            except UserError as error:
                assert "line 2 is damaged" in str(error)


def test_a_log_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"phase": "base", "step": 4, "time": 1.5, "loss": [1, null]}\n')
    assert read_metrics(path) == [{"phase": "base", "step": 4, "time": 1.5, "loss": [1, None]}]


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_directory_that_is_gone_is_noticed_at_the_next_log_point(tmp_path, how):
    folder = tmp_path / "run"
    folder.mkdir()
    with opened(folder) as log:
        log.rewind(0, 0)
        log.log(LogPoint("base", 1, 1, 0.5), {"loss": np.ones(1)})
        if how == "removed":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / "elsewhere")
        if how == "replaced":
            folder.mkdir()
            (folder / "metrics.jsonl").write_text("")
        with pytest.raises(RunStopped, match=r"run/metrics\.jsonl' could not be written"):
            log.log(LogPoint("base", 2, 2, 1.0), {"loss": np.ones(1)})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_stops_the_run_and_closing_says_nothing_more(tmp_path):
    log = MetricsLog(tmp_path, {})
    log.close()
    log._file = Path("/dev/full").open("ab")  # noqa: SIM115
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunStopped, match=r"metrics\.jsonl.*No space left.*stratdiff resume"):
        log.log(LogPoint("base", 1, 1, 0.5), {"loss": np.ones(1)})
    log.close()
