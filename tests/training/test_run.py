"""Whole runs: what they leave, what stops them, and that they learn."""

import json
import shutil
import signal

import jax
import numpy as np
import pointmass
import pytest
import runs
import steps

import stratdiff
from stratdiff import process
from stratdiff.config import make_config
from stratdiff.data import hdf5
from stratdiff.errors import Interrupted, RunStopped, TrainingDiverged, UserError
from stratdiff.files import lock_directory
from stratdiff.sinks import curves
from stratdiff.sinks.jsonl import read_metrics
from stratdiff.sinks.progress import Reporter
from stratdiff.training import memory
from stratdiff.training.online import empty_online_accumulator


def test_a_run_leaves_what_the_readme_promises(small_run):
    directory = small_run.directory
    names = {p.name for p in directory.iterdir()}
    assert names == {
        "checkpoints", "config.json", "curves.png", "metrics.jsonl", "policies",
        "policy.safetensors", "pretrained", "summary.json", "support.npy",
    }  # fmt: skip
    records = read_metrics(directory / "metrics.jsonl")
    assert [r["phase"] for r in records] == (
        ["base"] * 3 + ["behaviour"] * 3 + ["energy"] * 2 + ["online"] * 7
    )
    assert all({"phase", "step", "time"} <= r.keys() for r in records)
    assert all(len(v) == 1 for r in records for v in r.values() if isinstance(v, list))
    summary = runs.summary(directory)
    assert summary["dataset"]["fingerprint"] == small_run.summary["dataset"]["fingerprint"]
    assert summary["score"]["after"]["per_seed"] == records[-1]["score"]
    assert set(summary["updates_per_second"]) == {"base", "behaviour", "energy", "online"}
    assert (directory / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_before_and_after_are_the_evaluations_around_the_online_phase(small_run):
    records = runs.log_points(small_run.directory)
    before = next(r for r in records if r["phase"] == "online" and r["step"] == 0)
    assert small_run.scores == {
        "before": [r["score"] for r in records if r["phase"] == "base" and "score" in r][-1],
        "after": records[-1]["score"],
    }
    # The policy did not change in between, and episodes are paired.
    assert small_run.scores["before"] == before["score"]
    scored = [(r["phase"], r["step"]) for r in records if "score" in r]
    assert scored == [
        ("base", 40), ("base", 60), ("online", 0), ("online", 40), ("online", 80), ("online", 120),
    ]  # fmt: skip
    assert repr(small_run.directory.name)[1:-1] in repr(small_run)


def test_summary_tells_where_the_online_loop_spent_its_time(small_run):
    spent = small_run.summary["online_seconds"]
    assert set(spent) == {"device", "environment", "python", "compile"}
    assert all(seconds >= 0 for seconds in spent.values())
    # Evaluations and checkpoints are in the phase's time too.
    assert 0 < sum(spent.values()) <= small_run.summary["seconds"]["online"] + 0.05


def test_every_logged_metric_is_documented(small_run, tiny):
    text = (runs.TESTS.parent / "docs" / "metrics.md").read_text()
    logged = {key for r in read_metrics(small_run.directory / "metrics.jsonl") for key in r}
    for options in (
        {"base": "calql", "score": "support", "guidance_scale": "auto"},
        {"base": "rebrac", "score": "origin", "split": "exchange"},
        {"base": "sac", "score": "none"},
    ):
        logged |= {*empty_online_accumulator(*steps.setup(tiny(**options))).names}
    assert {"lagrange_multiplier", "next_action_distance", "entropy"} < logged
    assert {key for key in logged if f"`{key}`" not in text} == set()


def test_saved_policy_acts_on_raw_states(small_run):
    policy = stratdiff.Policy.load(small_run.directory / "policy.safetensors")
    obs = np.array([0.3, -1.2])
    np.testing.assert_array_equal(policy(obs), small_run.policy(obs))
    assert policy(obs).shape == (2,)
    steps = sorted(p.name for p in (small_run.directory / "policies").iterdir())
    assert steps == [f"step_{i:09d}.safetensors" for i in (0, 40, 80, 120)]


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_state(tiny, tmp_path):
    config = tiny(offline_steps=400, iql={"learning_rate": 1e12, "critic_hidden": [8, 8]})
    out = tmp_path / "run"
    with pytest.raises(
        TrainingDiverged, match=r"_loss of seed 0 became NaN or infinite at step \d+"
    ):
        stratdiff.train(config, out, reporter=runs.QUIET)
    assert not (out / "summary.json").exists()
    # What is kept holds finite weights only.
    assert [p for p in (out / "checkpoints").iterdir() if p.name.isdigit()]
    policy = stratdiff.Policy.load(out / "policy.safetensors")
    assert all(np.isfinite(array).all() for layer in policy.layers for array in layer)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["iql", "calql"])
def test_fine_tuning_beats_the_pre_trained_policy(base, data_file, tmp_path):
    """PointMass: the data's policy moves clumsily; both bases must get clearly better online."""
    config = make_config(
        "demo",
        dataset=str(data_file),
        base=base,
        seeds=[0],
        batch_size=64,
        offline_steps=150,
        behaviour_steps=800,
        energy_steps=300,
        online_steps=1500,
        online_warmup=100,
        log_interval=150,
        eval_interval=500,
        eval_episodes=20,
        iql={"actor_hidden": [64, 64], "critic_hidden": [64, 64], "learning_rate": 1e-3},
        calql={
            "actor_hidden": [64, 64],
            "critic_hidden": [64, 64],
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "alpha": 1.0,
            "sampled_actions": 4,
        },
        behaviour={"widths": [32, 16], "support_actions": 8, "solver_steps": 8},
        energy={"hidden": [32, 32]},
    )
    result = stratdiff.train(config, tmp_path / "run", reporter=runs.QUIET)
    before, after = (
        result.summary["score"]["before"]["mean"],
        result.summary["score"]["after"]["mean"],
    )
    # Standing still scores -40; the best policy, straight to the origin, about 23.
    assert after > before + 3
    assert after > result.summary["dataset"]["mean_score"] + 3


def test_two_processes_do_not_train_one_run(small_run):
    with lock_directory(small_run.directory), pytest.raises(UserError, match="another process"):
        stratdiff.resume(small_run.directory, reporter=runs.QUIET)


def test_resuming_with_other_data_is_refused(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    other = tmp_path / "other.hdf5"
    hdf5.write(other, pointmass.make_arrays(episodes=20, seed=1), pointmass.ENV)
    (copy / "config.json").write_text(json.dumps(config | {"dataset": str(other)}))
    with pytest.raises(UserError, match=r"other\.hdf5.*is not the one that the run"):
        stratdiff.resume(copy, reporter=runs.QUIET)


def test_a_log_that_lost_points_is_named(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "run")
    (copy / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"metrics\.jsonl' has 0 log points.*taken at 15"):
        stratdiff.resume(copy, reporter=runs.QUIET)


def test_support_actions_that_were_lost_are_drawn_again_with_the_same_bits(small_run, tmp_path):
    """The phase is computed again only where the run still needs it."""
    copy = runs.copy(small_run, tmp_path / "run")
    before = np.load(copy / "support.npy")
    (copy / "support.npy").write_bytes(b"cut")
    for newest in sorted((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))[1:]:
        shutil.rmtree(newest)  # back to online step 100
    again = stratdiff.resume(copy, reporter=runs.QUIET)
    np.testing.assert_array_equal(np.load(copy / "support.npy"), before)
    assert again.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]


# A sink from outside


class Refusing(runs.Recording):
    """A sink that cannot be made."""

    def __init__(self, directory, config):
        raise UserError("this sink has no server.")


def test_a_run_that_cannot_start_leaves_nothing(tiny, tmp_path):
    """Neither files nor folders, also not those above it that were made for it."""
    with pytest.raises(UserError, match="has no server"):
        stratdiff.Session(tiny(track=["test_run:Refusing"]), tmp_path / "runs" / "one")
    assert list(tmp_path.iterdir()) == []


def test_more_memory_than_there_is_is_refused_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(UserError, match=r"this run needs about .* than there is"):
        stratdiff.train(tiny(), tmp_path / "run", reporter=runs.QUIET)
    assert list(tmp_path.iterdir()) == []


def test_paths_are_kept_from_the_root_and_64_bits_are_off(tiny, data_file, tmp_path, monkeypatch):
    """So a run goes on from any folder; and with the bits of any other."""
    monkeypatch.chdir(data_file.parent)
    jax.config.update("jax_enable_x64", True)
    with stratdiff.Session(tiny(dataset=data_file.name), "a-run", reporter=runs.QUIET) as session:
        assert not jax.config.jax_enable_x64
        monkeypatch.chdir(tmp_path)
        session.save()
        assert session.directory == data_file.parent / "a-run"
    config = stratdiff.read_config(data_file.parent / "a-run" / "config.json")
    assert config.dataset == str(data_file)
    shutil.rmtree(data_file.parent / "a-run")


class Stopper(Reporter):
    """Sends a signal when the online phase has done so many steps."""

    def __init__(self, at):
        super().__init__(quiet=True)
        self.at = at

    def update(self, done, note=""):
        if self._name == "online" and done == self.at:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_is_honoured_at_the_next_step_and_the_run_ends_with_the_same_bits(
    small_run, tmp_path, monkeypatch
):
    copy = runs.copy(small_run, tmp_path / "run")
    for newest in sorted((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))[1:]:
        shutil.rmtree(newest)  # back to online step 100
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(process, "_signals", process._Signals())
    process.take_signals(terminal_may_close=False)
    with pytest.raises(Interrupted) as caught:
        stratdiff.resume(copy, reporter=Stopper(110))
    assert caught.value.exit_code == 143
    for number, handler in before.items():
        signal.signal(number, handler)
    monkeypatch.setattr(process, "_signals", process._Signals())
    assert (copy / "checkpoints" / "270").is_dir()  # 60 + 60 + 40 + 110: between two log points
    again = stratdiff.resume(copy, reporter=runs.QUIET)
    assert again.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert runs.log_points(copy) == runs.log_points(small_run.directory)


def test_a_full_disk_while_drawing_is_a_warning(small_run, tmp_path, monkeypatch):
    copy = runs.copy(small_run, tmp_path / "run")
    (copy / "curves.png").unlink()

    def full(*_):
        raise RunStopped("'curves.png' could not be written (No space left on device).")

    monkeypatch.setattr(curves, "plot_curves", full)
    with (tmp_path / "said").open("w") as stream:
        again = stratdiff.resume(copy, reporter=Reporter(stream))
    assert again.scores == small_run.scores
    said = (tmp_path / "said").read_text()
    assert "warning: Curves could not finish: 'curves.png' could" in said


class Full(runs.Recording):
    """A sink whose disk is full after some log points."""

    def log(self, point, metrics):
        if point.total_step > 20:
            raise OSError(28, "No space left on device")
        super().log(point, metrics)


def test_a_sink_that_cannot_write_stops_the_run_with_a_sentence(tiny, tmp_path):
    config = tiny(track=["test_run:Full"])
    with pytest.raises(RunStopped, match=r"Full could not write .*No space left.*resume '.*run'"):
        stratdiff.train(config, tmp_path / "run", reporter=runs.QUIET)
    calls = runs.recorded(tmp_path / "run")
    assert [call[0] for call in calls] == ["open", "rewind", "log", "close"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:Sink", "could not be imported"),
        ("runs:Nothing", "has no 'Nothing'"),
        ("runs:Driver", "has no 'rewind'"),
        ("tensorbord", "module:Class"),
    ],
)
def test_a_wrong_sink_leaves_nothing_behind(tiny, tmp_path, name, said):
    with pytest.raises(UserError, match=f"--track is '{name}'.*{said}"):
        stratdiff.train(tiny(track=[name]), tmp_path / "run", reporter=runs.QUIET)
    assert not (tmp_path / "run").exists()
