"""`train` and `resume`: killed and resumed, given environments, directories that are taken."""

import json
import shutil

import gymnasium
import numpy as np
import pytest
import runs

import stratdiff
from stratdiff.cli.parsing import show_result
from stratdiff.errors import BadEnvironment, RunStopped, UserError
from stratdiff.files import unsummed
from stratdiff.report.page import report, short_rows
from stratdiff.sinks.progress import Reporter
from stratdiff.training.evaluate import episode_seed


@pytest.mark.slow  # tests/faults kills runs too, and some of that is fast
def test_a_killed_run_resumes_to_the_bits_of_one_that_was_not(programs, tiny, tmp_path):
    config = tmp_path / "config.json"
    # Log points, and so checkpoints, fall into the middle of episodes (of 40 steps).
    long = tiny(
        offline_steps=180, online_steps=240, log_interval=30, seeds=[3, 5],
        track=["runs:Recording"],
    )  # fmt: skip
    config.write_text(long.to_json())
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def command(*args):
        return runs.process(programs, "-m", "stratdiff.cli", *args, "--trust-modules")

    def train(out):
        return command("train", "--config", config, "--out", out)

    runs.finish(train(whole))
    runs.kill_when(train(cut), cut, "base", 30)
    runs.kill_when(command("resume", cut), cut, "behaviour", 30)
    runs.kill_when(command("resume", cut), cut, "online", 60)
    assert not (cut / "summary.json").exists()
    runs.kill_when(command("resume", cut), cut, "online", 150)
    text = runs.finish(command("resume", cut))
    assert "warning" not in text
    first, second = (runs.summary(d) for d in (whole, cut))
    assert first["parameters_sha256"] == second["parameters_sha256"]
    assert len(set(first["parameters_sha256"])) == 2
    assert first["score"] == second["score"]
    points = runs.log_points(whole)
    assert points == runs.log_points(cut)
    # The config is complete: nothing of the run is anywhere else.
    assert (whole / "config.json").read_text() == config.read_text()

    # Somebody's own sink gets every log point once, and is told what a resumed run logs again.
    names = ["open", "rewind", *["log"] * len(points), "finish", "close"]
    calls = runs.recorded(whole)
    assert [call[0] for call in calls] == names
    assert calls[0] == ["open", [3, 5]] and calls[1] == ["rewind", 0, 0]
    assert calls[-2] == ["finish", first["parameters_sha256"]]
    kept, total_step = [], 0
    for name, *what in runs.recorded(cut):
        if name == "rewind":
            assert what[0] <= len(kept)
            kept, total_step = kept[: what[0]], what[1]
        elif name == "log":
            assert what[2] >= total_step  # what is logged comes after the checkpoint
            kept.append([name, *what])
    assert kept == [call for call in calls if call[0] == "log"]
    assert [(phase, step) for _, phase, step, *_ in kept] == [
        (p["phase"], p["step"]) for p in points
    ]
    assert [call[3] for call in kept] == sorted(call[3] for call in kept)
    assert all(shape == [2] for call in kept for shape in call[4].values())
    assert [name for name, *_ in runs.recorded(cut)].count("finish") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"base": "calql", "score": "support", "split": "exchange", "guidance_scale": "auto"},
        {"base": "rebrac", "score": "likelihood", "split": "exchange"},
        {"base": "iql", "score": "guided", "guidance": "exact", "guidance_scale": "auto"},
        {"base": "calql", "score": "origin", "split": "exchange", "exchange_odds": np.inf},
    ],
)
def test_what_adapts_online_resumes_to_the_same_bits(tiny, tmp_path, options):
    """The running windows and the guidance scale are in the state."""
    whole = stratdiff.train(tiny(seeds=[0, 1], **options), tmp_path / "run", reporter=runs.QUIET)
    cut = runs.copy(whole, tmp_path / "cut")
    *_, before_the_last, last = sorted((cut / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert before_the_last.name.isdigit()
    shutil.rmtree(last)
    (cut / "summary.json").unlink()
    again = stratdiff.resume(cut, reporter=runs.QUIET)
    assert again.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    assert runs.log_points(cut) == runs.log_points(whole.directory)


def test_resuming_a_finished_run_changes_nothing(small_run):
    before = runs.log_points(small_run.directory)
    again = stratdiff.resume(small_run.directory, reporter=runs.QUIET)
    assert again.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert runs.log_points(small_run.directory) == before


def test_an_output_directory_with_a_run_in_it_is_left_alone(small_run, tiny):
    before = (small_run.directory / "summary.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*resume"):
        stratdiff.train(tiny(), small_run.directory)
    assert (small_run.directory / "summary.json").read_bytes() == before


def test_an_output_directory_that_is_taken_is_left_alone(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; give another --out"):
        stratdiff.train(tiny(), tmp_path / "file")
    with pytest.raises(UserError, match="already holds 'file', but no run"):
        stratdiff.train(tiny(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run directory: it has no config\.json"):
        stratdiff.resume(tmp_path)


# Environments from a program


class Counted(gymnasium.Wrapper):
    """Counts its instances, and what is done with them."""

    made, steps, closed = 0, 0, 0

    def __init__(self):
        super().__init__(runs.make_env())
        Counted.made += 1

    def step(self, action):
        Counted.steps += 1
        return super().step(action)

    def close(self):
        Counted.closed += 1
        super().close()


@pytest.fixture(autouse=True)
def fresh():
    Counted.made = Counted.steps = Counted.closed = 0


@pytest.mark.slow
def test_one_object_trains_one_seed_without_a_second_environment(tiny, tmp_path):
    config = tiny(score="none", eval_episodes=0, env="")
    result = stratdiff.train(config, tmp_path / "run", env=Counted(), reporter=runs.QUIET)
    # One environment, and no steps but the trial's and the training's; the caller closes it.
    assert (Counted.made, Counted.steps, Counted.closed) == (1, 3 + 120, 0)
    assert result.scores == {}
    assert result.summary["environment"] == "PointMass-v0"
    assert result.config.env == stratdiff.OUTSIDE
    assert not any("score" in point for point in runs.log_points(result.directory))
    assert (result.directory / "curves.png").stat().st_size > 1000

    with pytest.raises(UserError, match=r"the calling program's, and none was given.*env="):
        stratdiff.resume(result.directory, reporter=runs.QUIET)
    again = stratdiff.resume(result.directory, env=Counted(), reporter=runs.QUIET)
    assert again.summary["parameters_sha256"] == result.summary["parameters_sha256"]
    assert (Counted.made, Counted.steps) == (2, 3 + 120 + 3)

    # The environment by its name gives the same bits, and so does one with evaluations.
    named = stratdiff.train(tiny(score="none"), tmp_path / "named", reporter=runs.QUIET)
    assert named.summary["parameters_sha256"] == result.summary["parameters_sha256"]


@pytest.mark.slow
def test_a_factory_makes_evaluation_environments_when_they_are_needed(tiny, tmp_path):
    config = tiny(score="none", seeds=[3, 5], offline_steps=20, online_steps=40)
    made = []  # environments at the begin of each phase

    class Watching(Reporter):
        def begin(self, name, total, done=0):
            if name in ("base", "online"):
                made.append((name, Counted.made))

    result = stratdiff.train(config, tmp_path / "run", env=Counted, reporter=Watching(quiet=True))
    # Two to try it out; four for the first evaluation; the seeds' own when they start.
    assert made == [("base", 2), ("online", 8)]
    assert Counted.made == Counted.closed == 2 + 2 * 2 + 2
    assert len(result.scores["after"]) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": [0, 1], "eval_episodes": 0}, "2 environments are needed"),
        ({"eval_episodes": 1}, "2 environments are needed"),
    ],
)
def test_one_object_is_not_enough(tiny, tmp_path, options, said):
    with pytest.raises(UserError, match=f"{said}, but .* one environment object; give a function"):
        stratdiff.train(tiny(**options), tmp_path / "run", env=Counted(), reporter=runs.QUIET)
    assert not (tmp_path / "run").exists()


class Faulty(Counted):
    """Gives NaN as a reward from its tenth step on; ends the program in its `last`."""

    last = 35

    def step(self, action):
        self.steps_done = getattr(self, "steps_done", 0) + 1
        if self.steps_done == self.last:
            raise SystemExit("out of\nlicences")
        obs, reward, *rest = super().step(action)
        evaluated = self.episode_seed in EVALUATIONS and self.last
        return obs, np.nan if evaluated and self.steps_done > 10 else reward, *rest

    def reset(self, *, seed=None, options=None):
        self.episode_seed = seed
        return super().reset(seed=seed)


EVALUATIONS = {episode_seed(0, 1, e) for e in range(2)}


@pytest.mark.slow
def test_a_run_whose_environment_fails_is_resumed_once_it_is_mended(tiny, tmp_path, monkeypatch):
    config = tiny(score="none", offline_steps=20, online_steps=60)
    said = tmp_path / "said"
    with said.open("w") as stream, pytest.raises(RunStopped) as caught:
        reporter = Reporter(stream)
        stratdiff.train(config, tmp_path / "run", env=Faulty, reporter=reporter)
    assert caught.value.exit_code == 1 and isinstance(caught.value.__cause__, BadEnvironment)
    sentence = str(caught.value)
    for words in (
        "environment 'PointMass-v0' failed (SystemExit: licences) in step 35 of an episode",
        f"at online step 34; nothing of that step is stored, so mend the environment and resume "
        f"{str(tmp_path / 'run')!r}.",
    ):
        assert words in sentence
    assert Counted.made == Counted.closed
    # The evaluations of this environment are not finite: warned of once, logged as null.
    lines = said.read_text().splitlines()
    assert len([line for line in lines if "warning" in line]) == 1
    assert any("gave a reward or an observation that is NaN or infinite" in x for x in lines)
    assert any(line.endswith("score —") for line in lines)

    monkeypatch.setattr(Faulty, "last", 0)
    result = stratdiff.resume(tmp_path / "run", env=Faulty, reporter=runs.QUIET)
    points = [p for p in runs.log_points(result.directory) if "score" in p]
    assert [p["score"] == [None] for p in points] == [True, True, False, False]
    text = (result.directory / "summary.json").read_text()
    assert "NaN" not in text and result.summary == unsummed(json.loads(text))
    assert result.summary["score"]["before"] == {"per_seed": [None], "mean": None}
    assert "before —, after " in repr(result)
    assert (result.directory / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert show_result(result) == 0
    (run,), left_out = report([str(result.directory)], str(tmp_path / "report"))
    assert np.isnan(run.before).all() and np.isfinite(run.after).all() and not left_out
    assert short_rows([run])[0][4] == "—"


def test_no_environment_at_all_is_one_sentence(tiny, tmp_path):
    with pytest.raises(UserError, match=r"none was given.*Session"):
        stratdiff.train(tiny(env=stratdiff.OUTSIDE), tmp_path / "run", reporter=runs.QUIET)
    assert not (tmp_path / "run").exists()
