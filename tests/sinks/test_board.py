"""What an experiment's runs are doing: what a process tells, the table, the lines, the estimate."""

import json

import pytest
from test_progress import terminal

from stratdiff.sinks import board
from stratdiff.sinks.board import Board, Told
from stratdiff.sinks.progress import duration


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    return now


def test_a_process_tells_lines_at_most_one_a_second(clock, tmp_path):
    stream = (tmp_path / "told").open("w", encoding="utf-8")
    told = Told(stream)
    told.say("warning: one\ntwo")
    told.begin("base", 100)
    told.begin("base", 100)
    told.update(10)
    clock[0] += 1
    told.update(20)
    told.update(30, "score 3")
    told.update(100)
    told.expect({"base": 30.0, "online": 60.0})
    assert [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()] == [
        ["say", "warning: one\ntwo"],
        ["begin", "base", 100, 0],
        ["update", 20, ""],
        ["update", 30, "score 3"],
        ["update", 100, ""],
        ["left", 90.0],
    ]
    stream.close()
    told.say("to nobody")  # no error


def test_the_time_left_is_that_of_the_runs_over_the_jobs(clock):
    shown = Board(["a", "b", "c", "d"], 2)
    assert shown.seconds_left() is None
    shown.tell("a", ["start"])
    shown.tell("b", ["start"])
    assert shown.seconds_left() is None
    shown.tell("a", ["left", 60.0])
    # a 60 s more; b, c and d as long as a: 4 * 60 / 2.
    assert shown.seconds_left() == pytest.approx(120)
    clock[0] += 80
    shown.finish("a", "1.0 -> 2.0")
    # b has 0 s left of 80; c and d take 80 s each.
    assert shown.seconds_left() == pytest.approx((0 + 2 * 80) / 2)
    shown.finish("b", "failed at once", failed=True)
    shown.tell("c", ["start"])
    shown.tell("c", ["left", 300.0])
    # Never less than the longest run takes; d is as long as a and c on average.
    assert shown.seconds_left() == pytest.approx(max(300, (300 + (80 + 300) / 2) / 2))


def test_plain_lines_come_every_half_minute(clock, capsys):
    with Board(["point/a", "point/b"], 1) as shown:
        shown.tell("point/a", ["start"])
        shown.tell("point/a", ["begin", "base", 1000, 0])
        shown.tell("point/a", ["say", "data       39 transitions"])
        shown.tell("point/a", ["say", "warning: no time limit"])
        shown.tell("point/a", ["left", 600.0])
        clock[0] += 31
        shown.tell("point/a", ["update", 500, "score 7.5"])
        shown.tell("point/a", ["update", 501, ""])
    assert capsys.readouterr().err.splitlines() == [
        "point/a: data       39 transitions",
        "point/a: warning: no time limit",
        "0 done, 1 running, 1 left: about 19 min; now point/a base 500/1,000 score 7.5",
    ]


def test_a_terminal_gets_a_table(clock, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"halfcheetah-medium-replay/calql-support-rho=0.{i}" for i in range(9)]
    with terminal() as (stream, read):
        with Board(names, 2, stream) as shown:
            for name in names[:3]:
                shown.tell(name, ["start"])
            shown.finish(names[0], "28.2 -> 31.4 (5 seeds, 6.5 minutes of training)")
            shown.tell(names[1], ["begin", "online", 12000, 0])
            shown.tell(names[1], ["update", 3000, "score 31.2"])
            shown.tell(names[1], ["left", 5400.0])
            shown.tell(names[1], ["say", "data       39 transitions"])
        stream.flush()
        text = read()
    for words in ("28.2 -> 31.4", "online 3,000/12,000", "31.2", "about 1.5 h", "is left"):
        assert words in text, words
    assert "1 done, 2 running, 6 left" in text and "and 1 more" in text
    assert "39 transitions" not in text + "".join(capsys.readouterr())


def test_durations_are_no_more_exact_than_an_estimate():
    seconds = (0.4, 40.0, 89.0, 90.0, 600.0, 5399.0, 5400.0, 1e5, 3e5)
    assert [duration(s) for s in seconds] == [
        *("0 s", "40 s", "89 s", "2 min", "10 min", "90 min", "1.5 h", "27.8 h", "3.5 days"),
    ]
