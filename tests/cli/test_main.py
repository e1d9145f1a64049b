"""The command line: usage, and one clear sentence with exit code 2 for every mistake."""

import contextlib
import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pointmass
import pytest
import runs
from commands import run

import stratdiff
from stratdiff import cli
from stratdiff.cli import train
from stratdiff.data import hdf5


def test_usage(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "train" in out and "resume" in out and "eval" in out
    assert run(capsys, "--version") == (0, f"{stratdiff.__version__}\n", "")


@pytest.mark.parametrize("command", ["resume", "eval", "compare", "report", "completion"])
def test_every_command_has_help(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and f"usage: stratdiff {command}" in out
    assert ("--trust-modules" in out) == (command not in ("report", "completion"))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["dance"], "unknown command 'dance'"),
        (["train", "--rho", "1.5"], "--rho is 1.5; it must be between 0 and 1"),
        (["train", "--rho", "-0.1"], "--rho"),
        (["train", "--base", "dqn"], "--base"),
        (["train", "--score", "kde"], "--score is 'kde'; it must be one of none, random, origin"),
        (["train", "--split", "half"], "--split is 'half'; it must be one of ratio"),
        (["train", "--rho", "half"], "--rho"),
        (["train", "--frobnicate", "1"], "--frobnicate"),
        (["train", "--seeds", "1", "1"], "--seeds is (1, 1); it must be different numbers"),
        (["train", "--preset", "huge"], "--preset is 'huge'; it must be one of demo, paper"),
        (["train", "--base", "sac"], "--base sac has no conservative loss"),
        (["train", "--config", "nowhere.json"], "'nowhere.json' does not exist"),
        (["train", "--dataset", "nowhere.hdf5"], "nowhere.hdf5' does not exist"),
        (["train", "--dataset", "stratdiff/halfcheetah-medum-replay"], "halfcheetah-medium-replay"),
        (["train", "--dataset", "nonsense"], "unknown data set 'nonsense'"),
        (["resume", "nowhere"], "'nowhere' is no run directory"),
        (["eval", "nowhere"], "'nowhere' is no run directory"),
        (["eval", "nowhere", "--episodes", "0"], "--episodes is 0"),
        (["eval", "nowhere", "--seed", "-1"], "--seed is -1; it must be 0 or more"),
        (["data", "make", "stratdiff/hopper-random", "--seed", "-1"], "--seed is -1"),
        (["data", "make", "stratdiff/hopper-random", "--jobs", "0"], "--jobs is 0"),
        (["data", "check", "nowhere.hdf5", "--rows", "0"], "--rows is 0; it must be 1 or more"),
        (["show", "x" * 300], "cannot be used (File name too long); check the path"),
        (["train", "--out", "x" * 300], "cannot be used (File name too long)"),
        (["compare", "nowhere.toml"], "'nowhere.toml' does not exist"),
    ],
)
def test_mistakes(capsys, tmp_path, monkeypatch, args, expected):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *args)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_may_not_be_read_is_one_sentence(capsys, monkeypatch):
    """Whichever command asks for it; the tests' own user may read everything."""

    def refuse(path, *rest, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.stat", refuse)
    for command in (["show", "there"], ["resume", "there"], ["eval", "there"]):
        code, _, err = run(capsys, *command)
        assert code == 2 and err.count("\n") == 1, err
        assert "there" in err and "(Permission denied); check the path and its permissions." in err


def test_names_that_are_no_text_are_refused(capsys, tmp_path, monkeypatch):
    """They could not be written into a run's JSON files and read again."""
    for args in (["train", "--dataset", "\udcff.hdf5"], ["show", "runs/\udcfe"]):
        code, _, err = run(capsys, *args)
        assert code == 2 and "is no UTF-8 text; rename the file or folder." in err
        assert err.isascii() and err.count("\n") == 1
    folder = tmp_path / "d\udcfe"
    folder.mkdir()
    monkeypatch.chdir(folder)
    code, _, err = run(capsys, "train", "--online-steps", "0")
    assert code == 2 and "\\xfe' is no UTF-8 text" in err and not any(folder.iterdir())
    assert run(capsys, "--version")[0] == 0  # which reads and writes nothing


def test_brackets_in_a_name_are_no_markup(capsys, tmp_path):
    (tmp_path / "d[").mkdir()
    path = tmp_path / "d[" / "old] s[bold].hdf5"
    hdf5.write(path, pointmass.make_arrays(episodes=2), "pointmass:PointMass")
    code, out, _ = run(capsys, "data", "info", path)
    assert code == 0 and "s[bold]" in out


def test_unknown_environment(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("data.hdf5", "w") as file:
        for key, shape in (
            ("observations", (9, 2)),
            ("actions", (9, 2)),
            ("rewards", 9),
            ("terminals", 9),
        ):
            file[key] = np.zeros(shape)
    code, _, err = run(capsys, "train", "--dataset", "data.hdf5", "--env", "HalfCheeta-v4")
    assert code == 2
    assert "'HalfCheeta-v4' is not registered" in err and "HalfCheetah-v4" in err
    code, _, err = run(capsys, "train", "--dataset", "data.hdf5", "--env", "no_such_module:X-v0")
    assert code == 2
    assert "no_such_module" in err and "Traceback" not in err


def test_debug_shows_where_an_error_came_from(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run(capsys, "train", "--dataset", "nowhere.hdf5")[2]
    code, _, err = run(capsys, "train", "--debug", "--dataset", "nowhere.hdf5")
    assert code == 2 and err.startswith("Traceback") and err.endswith(said)


def test_not_hdf5(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.hdf5").write_text("hello")
    code, _, err = run(capsys, "train", "--dataset", "data.hdf5")
    assert code == 2
    assert "could not be opened as HDF5" in err
    assert [p.name for p in tmp_path.iterdir()] == ["data.hdf5"]


def test_an_interrupted_command_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "main", interrupt)
    assert cli.main(["train"]) == 130
    assert "`stratdiff resume DIR`" in capsys.readouterr().err


def colours(value, *args):
    """The codes of colours that a command writes to a terminal with this $NO_COLOR."""
    inner, outer = os.openpty()
    environment = os.environ | {"NO_COLOR": value, "TERM": "xterm", "PYTHONPATH": runs.SRC}
    command = [sys.executable, "-m", "stratdiff.cli", *args]
    subprocess.run(command, stdout=outer, stderr=outer, env=environment)
    os.close(outer)
    text = b""
    with contextlib.suppress(OSError):
        while more := os.read(inner, 4096):
            text += more
    os.close(inner)
    assert b"stratdiff" in text
    return re.findall(rb"\x1b\[[0-9;]*3[0-9][0-9;]*m", text)


@pytest.mark.slow
def test_no_color_takes_the_colours_out():
    """Also of what tyro prints: help, and errors of the command line."""
    assert colours("", "resume") != []
    assert colours("1", "resume") == []
    assert colours("1", "report", "--help") == []
