"""The command line: help, and one clear sentence with exit code 2 for every mistake."""

import re

import pytest

from stratdiff.cli import main


def run(capsys, *args):
    """(exit code, standard output, standard error) of a command."""
    try:
        code = main([str(a) for a in args])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_option_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    options = re.findall(r"--([a-z0-9.-]+)", out)
    names = """dataset env base method alignment rho guidance-scale utd seeds offline-steps
        online-steps preset out config iql.expectile calql.alpha behaviour.widths energy.hidden"""
    for option in names.split():
        assert option in options
    assert out.count("(default: ") >= 50
    assert "(default: demo)" in out


def test_usage(capsys):
    assert run(capsys)[0] == 2
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "train" in out and "resume" in out and "eval" in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["dance"], "unknown command 'dance'"),
        (["train", "--rho", "1.5"], "--rho is 1.5; it must be between 0 and 1"),
        (["train", "--rho", "-0.1"], "--rho"),
        (["train", "--base", "dqn"], "--base"),
        (["train", "--rho", "half"], "--rho"),
        (["train", "--frobnicate", "1"], "--frobnicate"),
        (["train", "--seeds", "1", "1"], "--seeds is (1, 1); it must be different numbers"),
        (["train", "--preset", "huge"], "--preset is 'huge'; it must be one of demo, paper"),
        (["train", "--base", "sac"], "--base sac has no conservative loss"),
        (["train", "--config", "nowhere.json"], "'nowhere.json' does not exist"),
        (["train", "--dataset", "nowhere.hdf5"], "'nowhere.hdf5' does not exist"),
        (["train", "--dataset", "stratdiff/halfcheetah-medum-replay"], "halfcheetah-medium-replay"),
        (["train", "--dataset", "nonsense"], "unknown data set 'nonsense'"),
        (["resume", "nowhere"], "'nowhere' is no run directory"),
        (["eval", "nowhere"], "'nowhere' is no run directory"),
        (["eval", "nowhere", "--episodes", "0"], "--episodes is 0"),
    ],
)
def test_mistakes(capsys, tmp_path, monkeypatch, args, expected):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *args)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_unknown_environment(capsys, tmp_path, monkeypatch):
    import h5py
    import numpy as np

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


def test_not_hdf5(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.hdf5").write_text("hello")
    code, _, err = run(capsys, "train", "--dataset", "data.hdf5")
    assert code == 2
    assert "could not be opened as HDF5" in err
    assert [p.name for p in tmp_path.iterdir()] == ["data.hdf5"]
