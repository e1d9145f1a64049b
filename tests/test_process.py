"""Signals and streams of the command's own process; a program's own are left alone."""

import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from stratdiff import process
from stratdiff.errors import Interrupted


@pytest.fixture
def signals(monkeypatch):
    """Handlers of the command; the test's own afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(process, "_signals", process._Signals())
    process.take_signals(terminal_may_close=False)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_waits_where_no_signal_came(signals):
    with process.deferring():
        process.honour()
        assert not process.stopping()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_of_training_a_signal_stops_at_once(signals, number):
    with pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt)  # `except Exception` lets it through


def test_in_training_the_first_waits_for_the_next_step_and_the_second_does_not(signals):
    with pytest.raises(Interrupted) as caught, process.deferring():
        signal.raise_signal(signal.SIGTERM)
        assert process.stopping()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        process.honour()
    assert caught.value.exit_code == 143  # the first one decides


def test_a_signal_that_nobody_honours_is_not_swallowed(signals):
    with pytest.raises(Interrupted), process.deferring():
        signal.raise_signal(signal.SIGINT)
    # and an error goes first
    with pytest.raises(ValueError), process.deferring():
        raise ValueError


CHILD = """
import os, signal, sys, time
from stratdiff import process
process.take_signals(terminal_may_close=True)
process.follow_parent(os.dup(0), float(sys.argv[1]))
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt as error:
    print("stopping", flush=True)
    time.sleep(float(sys.argv[2]))
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("grace", "work"), [(60, 0), (0.2, 60)])
def test_a_child_ends_with_its_parent_also_where_it_does_not_listen(grace, work):
    line = [sys.executable, "-c", CHILD, str(grace), str(work)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGHUP)  # the end of a terminal is nothing
        child.stdin.write("more\n")
        child.stdin.flush()
        time.sleep(0.1)
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(30) == 143
        assert child.stdout.read() == "stopping\n"


SPEAKER = """
import sys, time
from stratdiff import process
out, err = process.last(1), process.last(2)
for i in range(200):
    print("\u2501" * 100, flush=True)
    print("error \u00b1", file=sys.stderr)
with open(sys.argv[1], "w") as file:
    file.write(f"{type(process.broken(out)).__name__} {type(process.broken(err)).__name__}")
"""


@pytest.mark.parametrize(
    ("redirection", "found"),
    [
        ("| true", "BrokenPipeError NoneType"),
        ("2>&1 | true", "BrokenPipeError BrokenPipeError"),
        ("> /dev/full 2> /dev/full", "OSError OSError"),
        (">&- 2>&-", "NoneType NoneType"),
        ("> /dev/null 2> /dev/null", "NoneType NoneType"),
    ],
)
def test_streams_neither_break_nor_refuse_a_character(tmp_path, redirection, found):
    (tmp_path / "speaker.py").write_text(SPEAKER)
    code = f"{sys.executable} speaker.py found {redirection}"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    subprocess.run(["sh", "-c", code], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL, timeout=60)
    limit = time.monotonic() + 30  # a shell does not wait for the left side of every pipe
    while not (tmp_path / "found").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert (tmp_path / "found").read_text() == found


def test_what_is_written_arrives_in_order(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    stream = process.last(1)
    threads = [threading.Thread(target=print, args=("x" * 50,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.broken(stream) is None
    assert capfd.readouterr().out.split() == ["x" * 50] * 20
