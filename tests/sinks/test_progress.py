"""Progress: plain lines where nobody watches, a bar on a terminal, silence on demand."""

import contextlib
import os

import numpy as np
import pytest

from stratdiff.sinks import progress
from stratdiff.sinks.progress import Reporter, number


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@contextlib.contextmanager
def terminal():
    """(what is written to it, what reads it again) of a pseudo-terminal."""
    inner, outer = os.openpty()

    def read():
        os.set_blocking(inner, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(inner, 4096):
                text += more
        return text.decode()

    with os.fdopen(outer, "w") as stream:
        yield stream, read
    os.close(inner)


@pytest.fixture
def log(tmp_path):
    """A file that progress is written to, line by line."""
    with (tmp_path / "log").open("w+", buffering=1) as file:
        yield file


def lines(log):
    log.seek(0)
    return log.read().splitlines()


def test_plain_lines_come_every_ten_seconds_and_at_the_end(clock, log):
    reporter = Reporter(log)
    reporter.begin("online", 1000, 200)
    for done, seconds in ((300, 2), (400, 11), (500, 12), (1000, 16)):
        clock[0] = 100.0 + seconds
        reporter.update(done)
        reporter.update(done)
    reporter.end()
    first, last = (line.split() for line in lines(log))
    # 200 steps in 11 s leave 600 for 33 s; 800 in 16 s.
    assert first == ["online", "400/1,000", "18/s", "0:33", "left"]
    assert last == ["online", "1,000/1,000", "50/s", "0:00", "left"]


def test_a_note_is_said_at_once(clock, log):
    reporter = Reporter(log)
    reporter.begin("base", 1000)
    clock[0] += 1
    reporter.update(10, "score 12.3")
    assert lines(log) == ["base             10/1,000  10/s  1:39 left  score 12.3"]


def test_a_phase_that_goes_on_is_not_begun_again(clock, log):
    reporter = Reporter(log)
    reporter.begin("data", 10)
    clock[0] += 10
    reporter.begin("data", 10, 10)
    reporter.update(10)
    assert lines(log)[0].split()[2] == "1/s"


def test_quiet_says_nothing():
    with terminal() as (stream, read):
        reporter = Reporter(stream, quiet=True)
        reporter.begin("base", 10)
        reporter.update(10, "score 1")
        reporter.say("warning")
        reporter.end()
        stream.flush()
        assert read() == ""


def test_a_terminal_gets_a_bar():
    with terminal() as (stream, read):
        reporter = Reporter(stream)
        reporter.begin("base", 2000)
        reporter.update(500, "score 7.5")
        reporter.say("warning: [3, 5] is no markup")
        reporter.update(2000)
        reporter.end()
        reporter.end()  # once more does no harm
        stream.flush()
        text = read()
    for word in ("base", "2,000/2,000", "score 7.5", "warning: [3, 5] is no markup"):
        assert word in text


def test_numbers_for_people():
    shown = [number(x) for x in (1.25, -3.0, 7.0, None, np.nan, np.inf)]
    assert shown == ["1.2", "-3.0", "7.0", "—", "—", "—"]
    assert number(1.25, digits=2) == "1.25"
