"""`stratdiff video` and `stratdiff eval --video`."""

import pointmass
import pytest
import runs
from commands import run
from PIL import Image

from stratdiff.config import OUTSIDE
from stratdiff.policy import Policy, policy_file


def frames(path):
    with Image.open(path) as picture:
        return picture.n_frames, picture.width


def test_a_run_is_filmed(small_run, tmp_path, capsys):
    one, two = tmp_path / "one.gif", tmp_path / "two.gif"
    code, out, _ = run(capsys, "video", small_run.directory, "--out", one)
    assert code == 0 and out.startswith(f"{one} (") and out.endswith(" MB)\n")
    assert frames(one)[0] == pointmass.HORIZON + 1
    options = ("--before-after", "--episodes", "2", "--seed", "0", "--out", two)
    assert run(capsys, "video", small_run.directory, *options)[0] == 0
    assert frames(two) == (2 * (pointmass.HORIZON + 1), 2 * frames(one)[1])
    three = tmp_path / "three.gif"
    code, out, _ = run(
        capsys, "eval", small_run.directory, "--episodes", "1", "--video", three
    )  # fmt: skip
    assert code == 0 and "return" in out and out.endswith(f"{three}\n")
    # The same policy in the same episode.
    assert three.read_bytes() == one.read_bytes()


def test_every_run_keeps_what_fine_tuning_started_from(small_run):
    """Its score is that of the evaluation before the first online step."""
    before = Policy.load(policy_file(small_run.directory, 0))
    assert (before.metadata["phase"], before.metadata["step"]) == ("online", 0)
    assert before.metadata["score"] == pytest.approx(small_run.scores["before"], rel=1e-5)


def test_mistakes(small_run, tmp_path, capsys):
    directory = small_run.directory
    for args, said in (
        (("nowhere",), "'nowhere' is no run directory: it has no config.json"),
        ((directory, "--episodes", "0"), "--episodes is 0; it must be 1 or more"),
        ((directory, "--seed", "7"), "--seed is 7; the run"),
        ((directory, "--out", "film.avi"), "the suffix '.avi'; a film is written as .mp4 or .gif"),
    ):
        code, out, err = run(capsys, "video", *args)
        assert code == 2 and out == "" and said in err and err.count("\n") == 1
    code, _, err = run(capsys, "eval", directory, "--video", "film")
    assert code == 2 and "the suffix ''" in err
    copy = runs.copy(small_run, tmp_path / "run")
    out = tmp_path / "film.gif"
    policy_file(copy, 0).unlink()
    code, _, err = run(capsys, "video", copy, "--before-after", "--out", out)
    assert code == 2 and "does not exist: the run" in err and "leave out --before-after" in err
    (copy / "policy.safetensors").unlink()
    code, _, err = run(capsys, "video", copy, "--out", out)
    assert code == 2 and "policy.safetensors' does not exist" in err
    text = (copy / "config.json").read_text()
    (directory / "policy.safetensors").read_bytes()
    (copy / "policy.safetensors").write_bytes((directory / "policy.safetensors").read_bytes())
    (copy / "config.json").write_text(text.replace(pointmass.ENV, OUTSIDE))
    code, _, err = run(capsys, "video", copy, "--out", out)
    assert code == 2 and "the run has no environment by name, so it cannot be filmed" in err
    assert not out.exists()


def test_the_environments_code_needs_trust(small_run, tmp_path, capsys, untrusting):
    code, _, err = run(capsys, "video", small_run.directory, "--out", tmp_path / "film.gif")
    assert code == 2 and "pass --trust-modules" in err
