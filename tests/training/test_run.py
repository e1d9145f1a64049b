"""Whole runs: killed and resumed, repeated, learning, the files they leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pointmass
import pytest

import stratdiff
from stratdiff.config import make_config
from stratdiff.data import hdf5
from stratdiff.data.lock import alone
from stratdiff.errors import TrainingDiverged, UserError
from stratdiff.train.track import Reporter, read_metrics

TESTS = Path(__file__).parents[1]
QUIET = Reporter(quiet=True)


@pytest.fixture
def command(tmp_path):
    """Runs `stratdiff ...` as a real process that knows the test environment."""
    env = os.environ | {
        "PYTHONPATH": str(TESTS),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        # Every process of this test compiles the same programs.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(*args, **options):
        line = [sys.executable, "-m", "stratdiff.cli", *map(str, args)]
        return subprocess.Popen(
            line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )

    return start


def finish(process):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def kill_when(process, directory, phase, step):
    """SIGKILL as soon as metrics.jsonl has a log point at or after this one."""
    path, limit = directory / "metrics.jsonl", time.monotonic() + 240
    while time.monotonic() < limit and process.poll() is None:
        records = read_metrics(path) if path.exists() else []
        if any(r["phase"] == phase and r["step"] >= step for r in records):
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.005)
    raise AssertionError(f"never reached {phase} {step}: {process.communicate()[0]}")


def without_time(directory):
    return [
        {k: v for k, v in r.items() if k != "time"}
        for r in read_metrics(directory / "metrics.jsonl")
    ]


def test_a_killed_run_resumes_to_the_bits_of_one_that_was_not(command, tiny, tmp_path):
    config = tmp_path / "config.json"
    # Log points, and so checkpoints, fall into the middle of episodes (of 40 steps).
    long = tiny(offline_steps=180, online_steps=240, log_interval=30, seeds=[3, 5])
    config.write_text(long.to_json())
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(command("train", "--config", config, "--out", whole))
    kill_when(command("train", "--config", config, "--out", cut), cut, "base", 30)
    kill_when(command("resume", cut), cut, "behaviour", 30)
    kill_when(command("resume", cut), cut, "online", 60)
    assert not (cut / "summary.json").exists()
    kill_when(command("resume", cut), cut, "online", 150)
    text = finish(command("resume", cut))
    assert "warning" not in text
    first, second = (json.loads((d / "summary.json").read_text()) for d in (whole, cut))
    assert first["parameters_sha256"] == second["parameters_sha256"]
    assert len(set(first["parameters_sha256"])) == 2
    assert first["score"] == second["score"]
    assert without_time(whole) == without_time(cut)
    # The config is complete: nothing of the run is anywhere else.
    assert (whole / "config.json").read_text() == config.read_text()


@pytest.fixture(scope="module")
def small_run(data_file, tiny_options, tmp_path_factory):
    config = make_config(**(tiny_options | {"dataset": str(data_file), "save_policies": True}))
    out = tmp_path_factory.mktemp("run") / "run"
    return stratdiff.train(config, out, reporter=QUIET)


def test_a_run_leaves_what_the_readme_promises(small_run):
    directory = small_run.directory
    names = {p.name for p in directory.iterdir()}
    assert names == {
        "checkpoints", "config.json", "curves.png", "metrics.jsonl", "policies",
        "policy.safetensors", "summary.json", "support.npy",
    }  # fmt: skip
    records = read_metrics(directory / "metrics.jsonl")
    assert [r["phase"] for r in records] == (
        ["base"] * 3 + ["behaviour"] * 3 + ["energy"] * 2 + ["online"] * 7
    )
    assert all({"phase", "step", "time"} <= r.keys() for r in records)
    assert all(len(v) == 1 for r in records for v in r.values() if isinstance(v, list))
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["dataset"]["fingerprint"] == small_run.summary["dataset"]["fingerprint"]
    assert summary["score"]["after"]["per_seed"] == records[-1]["score"]
    assert set(summary["updates_per_second"]) == {"base", "behaviour", "energy", "online"}
    assert (directory / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_summary_tells_where_the_online_loop_spent_its_time(small_run):
    spent = small_run.summary["online_seconds"]
    assert set(spent) == {"device", "environment", "python", "compile"}
    assert all(seconds >= 0 for seconds in spent.values())
    # Evaluations and checkpoints are in the phase's time too.
    assert 0 < sum(spent.values()) <= small_run.summary["seconds"]["online"] + 0.05


def test_every_logged_metric_is_documented(small_run, tiny, tmp_path):
    text = (TESTS.parent / "docs" / "metrics.md").read_text()
    calql = stratdiff.train(
        tiny(base="calql", alignment="support"), tmp_path / "run", reporter=QUIET
    )
    logged = {
        key
        for run in (small_run, calql)
        for record in read_metrics(run.directory / "metrics.jsonl")
        for key in record
    }
    assert {key for key in logged if f"`{key}`" not in text} == set()


def test_eval_repeats_the_scores_of_the_run(small_run):
    found = stratdiff.evaluate(small_run.directory, episodes=2, seed=None)
    assert found["score"] == pytest.approx(small_run.scores["after"], rel=1e-5)
    other = stratdiff.evaluate(small_run.directory, episodes=2, seed=99)
    assert other["score"] != found["score"]


def test_saved_policy_acts_on_raw_states(small_run):
    policy = stratdiff.Policy.load(small_run.directory / "policy.safetensors")
    obs = np.array([0.3, -1.2])
    np.testing.assert_array_equal(policy(obs), small_run.policy(obs))
    assert policy(obs).shape == (2,)
    steps = sorted(p.name for p in (small_run.directory / "policies").iterdir())
    assert steps == [f"step_{i:09d}.safetensors" for i in (0, 40, 80, 120)]


def test_resuming_a_finished_run_changes_nothing(small_run):
    before = without_time(small_run.directory)
    again = stratdiff.resume(small_run.directory, reporter=QUIET)
    assert again.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert without_time(small_run.directory) == before


def test_an_output_directory_with_a_run_in_it_is_left_alone(small_run, tiny):
    before = (small_run.directory / "summary.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*resume"):
        stratdiff.train(tiny(), small_run.directory)
    assert (small_run.directory / "summary.json").read_bytes() == before


def test_resume_of_another_versions_checkpoint_says_so(small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_run.directory, copy)
    for meta in copy.glob("checkpoints/*/meta/metadata"):
        meta.write_text(meta.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(UserError, match="checkpoint of format 0, this version reads format 1"):
        stratdiff.resume(copy, reporter=QUIET)


def test_resume_with_a_changed_config_says_so(small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_run.directory, copy)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"online_steps": 120', '"online_steps": 200'))
    with pytest.raises(UserError, match=r"does not fit its config.json"):
        stratdiff.resume(copy, reporter=QUIET)


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_state(tiny, tmp_path):
    config = tiny(offline_steps=400, iql={"learning_rate": 1e12, "critic_hidden": [8, 8]})
    out = tmp_path / "run"
    with pytest.raises(
        TrainingDiverged, match=r"_loss of seed 0 became NaN or infinite at step \d+"
    ):
        stratdiff.train(config, out, reporter=QUIET)
    assert not (out / "summary.json").exists()
    # What is kept holds finite weights only.
    assert [p for p in (out / "checkpoints").iterdir() if p.name.isdigit()]
    policy = stratdiff.Policy.load(out / "policy.safetensors")
    assert all(np.isfinite(array).all() for layer in policy.layers for array in layer)


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
    result = stratdiff.train(config, tmp_path / "run", reporter=QUIET)
    before, after = (
        result.summary["score"]["before"]["mean"],
        result.summary["score"]["after"]["mean"],
    )
    # Standing still scores -40; the best policy, straight to the origin, about 23.
    assert after > before + 3
    assert after > result.summary["dataset"]["mean_score"] + 3


def test_data_without_the_file_naming_its_environment(tiny, tmp_path, data_file):
    nameless = tmp_path / "nameless.hdf5"
    with h5py.File(data_file) as old, h5py.File(nameless, "w") as new:
        for key in old:
            new[key] = old[key][()]
    with pytest.raises(UserError, match="does not name its environment; give it with --env"):
        stratdiff.train(tiny(dataset=str(nameless), env=""), tmp_path / "run", reporter=QUIET)
    assert not (tmp_path / "run").exists()


def test_data_of_another_environment(tiny, tmp_path):
    with pytest.raises(
        UserError, match="observations of size 2 but environment 'HalfCheetah-v4' has"
    ):
        stratdiff.train(tiny(env="HalfCheetah-v4"), tmp_path / "run", reporter=QUIET)
    assert not (tmp_path / "run").exists()


def test_no_complete_trajectory_for_calql(tiny, tmp_path):
    path = tmp_path / "open.hdf5"
    arrays = pointmass.make_arrays(episodes=1)
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array[:30]
    options = {"dataset": str(path), "reward_scale": 1.0}
    with pytest.raises(UserError, match="no complete trajectory"):
        stratdiff.train(tiny(base="calql", **options), tmp_path / "run", reporter=QUIET)
    with pytest.raises(UserError, match=r"rewards cannot be scaled.*--reward-scale"):
        stratdiff.train(tiny(dataset=str(path)), tmp_path / "run", reporter=QUIET)


def test_two_processes_do_not_train_one_run(small_run):
    with alone(small_run.directory), pytest.raises(UserError, match="another process"):
        stratdiff.resume(small_run.directory, reporter=QUIET)


def test_resuming_with_other_data_is_refused(small_run, tmp_path, data_file):
    copy = tmp_path / "run"
    shutil.copytree(small_run.directory, copy)
    config = json.loads((copy / "config.json").read_text())
    other = tmp_path / "other.hdf5"
    hdf5.write(other, pointmass.make_arrays(episodes=20, seed=1), pointmass.ENV)
    (copy / "config.json").write_text(json.dumps(config | {"dataset": str(other)}))
    with pytest.raises(UserError, match=r"other\.hdf5.*is not the one that the run"):
        stratdiff.resume(copy, reporter=QUIET)


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(small_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.directory, copy)
    older, newest = sorted(int(p.name) for p in (copy / "checkpoints").iterdir())
    for path in (copy / f"checkpoints/{newest}/meta").iterdir():
        path.write_bytes(b"")
    again = stratdiff.resume(copy, reporter=QUIET)
    assert again.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert without_time(copy) == without_time(small_run.directory)
    assert (copy / f"damaged-checkpoint-{newest}").is_dir()
    for path in (copy / f"checkpoints/{older}/meta").iterdir():
        path.write_bytes(b"")
    for path in (copy / f"checkpoints/{newest}/meta").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint that can be read"):
        stratdiff.resume(copy, reporter=QUIET)


def test_a_log_that_lost_points_is_named(small_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.directory, copy)
    (copy / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"metrics\.jsonl' has 0 bytes"):
        stratdiff.resume(copy, reporter=QUIET)
