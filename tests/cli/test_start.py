"""`stratdiff` alone: the next sensible commands for what is in runs/."""

import os

import runs
from commands import run

from stratdiff.files import lock_directory


def alone(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert "stratdiff --help" in out
    return out


def test_no_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = alone(capsys)
    assert "stratdiff train " in out and "stratdiff data list" in out
    assert "resume" not in out


def test_runs(small_run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.copy(small_run, tmp_path / "runs/first")
    out = alone(capsys)
    assert "stratdiff show runs/first" in out and "stratdiff report runs" in out
    assert "1 finished" in out and "resume" not in out
    cut = runs.copy(small_run, tmp_path / "runs/exp/point/base")
    (cut / "summary.json").unlink()
    newest = runs.copy(small_run, tmp_path / "runs/a name")
    os.utime(newest / "config.json", (2e9, 2e9))
    # What variants share is no run.
    (tmp_path / "runs/exp/pretrained/x").mkdir(parents=True)
    (tmp_path / "runs/exp/pretrained/x/config.json").write_text("{}")
    out = alone(capsys)
    assert "2 finished, 1 cut off" in out
    assert "stratdiff resume runs/exp/point/base" in out
    assert "stratdiff show 'runs/a name'" in out
    with lock_directory(cut):
        out = alone(capsys)
    assert "1 being trained" in out and "stratdiff show runs/exp/point/base" in out
    assert "resume" not in out
