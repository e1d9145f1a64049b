"""One byte of one file, a lost end or a lost file: the same result as before, or one sentence.

A result that changes without a word is a failure, also where no checksum could be expected.
"""

import json
import re
import shutil
import signal

import h5py
import numpy as np
import pytest
from trials import clean, command, random, refused, result, same, spec, trials


def damage(path, rng):
    """Damage a file in one of three ways; what was done."""
    content = bytearray(path.read_bytes())
    way = rng.choice(["flip", "cut", "delete"], p=[0.8, 0.15, 0.05])
    if way == "delete" or not content:
        path.unlink()
        return f"{path.name} deleted"
    place = int(rng.integers(len(content)))
    if way == "cut":
        path.write_bytes(content[:place])
        return f"{path.name} cut off at {place} of {len(content)}"
    old, content[place] = content[place], content[place] ^ int(rng.integers(1, 256))
    path.write_bytes(content)
    return f"{path.name}: byte {place} of {len(content)} {old:#04x} -> {content[place]:#04x}"


def pick(folder, rng):
    """A file of a folder: every kind as likely, a checkpoint's inner files one kind each."""
    kinds = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"):
        kind = re.sub(r"[0-9a-f]{16,}|\d+", "N", str(path.relative_to(folder)))
        kinds.setdefault(kind, []).append(path)
    kind = sorted(kinds)[rng.integers(len(kinds))]
    return kinds[kind][rng.integers(len(kinds[kind]))]


def answer(outcome, expected, found, what):
    """The same result, or one sentence."""
    clean(outcome)
    if outcome.code:
        refused(outcome)
        return
    try:
        same_as = found()
    except Exception as error:
        raise AssertionError(f"{what}: ended with 0, but left no result: {error}") from error
    assert same_as == expected, f"{what}: another result without a word\n{outcome.text[-2000:]}"


@pytest.fixture(scope="module")
def cut(forks, warm, small_data, guided, tmp_path_factory):
    """A run of all phases that was killed in its online phase."""
    run = tmp_path_factory.mktemp("cut") / "run"
    moment = int(guided.changes * 0.9)
    options = {"root": str(run), "signal": [signal.SIGKILL, moment]}
    outcome = forks.run(*command(small_data, run, "guided"), **options)
    assert outcome.code == -signal.SIGKILL and (run / "support.npy").exists()
    return run


@pytest.mark.parametrize("trial", trials(100, core=0))
def test_a_run_that_is_resumed(trial, warm, cut, guided, tmp_path):
    rng, run = random("cut run", trial), tmp_path / "run"
    shutil.copytree(cut, run)
    what = damage(pick(run, rng), rng)
    outcome = warm.here("resume", run, "--trust-modules")
    answer(outcome, guided.result, lambda: result(run), what)


@pytest.mark.parametrize("trial", trials(50, core=0))
def test_a_finished_run(trial, warm, plain, tmp_path):
    """Resumed, reported or evaluated."""
    rng, run = random("finished run", trial), tmp_path / "run"
    shutil.copytree(plain.directory, run)
    files = ("config.json", "metrics.jsonl", "summary.json", "policy.safetensors")
    way = rng.choice(["resume", "report", "eval"])
    path = run / (files[3] if way == "eval" else files[rng.integers(3)])
    if way == "resume":
        arguments, found = ("resume", run, "--trust-modules"), lambda: result(run)
    elif way == "report":
        arguments = ("report", run, "--out", tmp_path / "page")
        found = lambda: (tmp_path / "page/results.json").read_text()  # noqa: E731
    else:
        arguments = ("eval", run, "--episodes", 2, "--trust-modules")
        found = None
    whole = warm.here(*arguments)
    expected = found() if found else whole.text
    if way == "resume":
        same(expected, plain.result)
    what = damage(path, rng)
    outcome = warm.here(*arguments)
    answer(outcome, expected, found or (lambda: outcome.text), what)


@pytest.fixture(scope="module")
def pretrained(warm, guided, tmp_path_factory):
    """The shared phases of a run."""
    folder = tmp_path_factory.mktemp("shared")
    arguments = (guided.directory / "config.json", folder / "run", folder / "pretrained")
    outcome = warm.here(*map(str, arguments), call="actions:share")
    assert outcome.code == 0, outcome.text
    same(result(folder / "run"), guided.result)
    return folder / "pretrained"


@pytest.mark.parametrize("trial", trials(30, core=0))
def test_shared_phases(trial, warm, guided, pretrained, tmp_path):
    rng = random("shared", trial)
    shutil.copytree(pretrained, tmp_path / "pretrained")
    what = damage(pick(tmp_path / "pretrained", rng), rng)
    arguments = (guided.directory / "config.json", tmp_path / "run", tmp_path / "pretrained")
    outcome = warm.here(*map(str, arguments), call="actions:share")
    answer(outcome, guided.result, lambda: result(tmp_path / "run"), what)


@pytest.fixture(scope="module")
def made(warm, tmp_path_factory):
    """A folder with a made set, one with a chunk of it only, and what is loaded."""
    folder = tmp_path_factory.mktemp("made")
    outcome = warm.here(call="actions:load_made", env={"STRATDIFF_CACHE": str(folder)})
    assert outcome.code == 0, outcome.text
    return folder, outcome.text.split("loaded ")[1]


@pytest.fixture(scope="module")
def chunks(forks, tmp_path_factory):
    """The folder of a set that was cut off when its first chunk was done."""
    folder = tmp_path_factory.mktemp("chunks")
    job = {"env": {"STRATDIFF_CACHE": str(folder)}, "root": str(folder)}
    for moment in range(5, 40, 3):
        forks.run(call="actions:load_made", signal=[signal.SIGKILL, moment], **job)
        if list(folder.rglob("*.npz")):
            return folder
    raise AssertionError("no chunk is ever left")


@pytest.mark.parametrize("trial", trials(20, core=0))
def test_a_made_set(trial, warm, made, tmp_path):
    rng, (folder, expected) = random("made", trial), made
    shutil.copytree(folder, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.hdf5")
    what = damage(path, rng)
    load(warm, tmp_path / "cache", expected, what)


@pytest.mark.parametrize("trial", trials(20, core=0))
def test_a_chunk(trial, warm, made, chunks, tmp_path):
    rng = random("chunk", trial)
    shutil.copytree(chunks, tmp_path / "cache")
    what = damage(sorted((tmp_path / "cache").rglob("*.npz"))[0], rng)
    load(warm, tmp_path / "cache", made[1], what)


def load(warm, cache, expected, what):
    outcome = warm.here(call="actions:load_made", env={"STRATDIFF_CACHE": str(cache)})
    answer(outcome, expected, lambda: outcome.text.split("loaded ")[1], what)


@pytest.mark.parametrize("trial", trials(30, core=3))
def test_a_data_file(trial, forks, small_data, tmp_path):
    rng, path = random("hdf5", trial), tmp_path / "set.hdf5"
    shutil.copyfile(small_data, path)
    arguments = ("data", "info", path, "--json")
    expected = forks.run(*arguments).text
    what = damage(path, rng)
    outcome = forks.run(*arguments, timeout=60)
    answer(outcome, expected, lambda: outcome.text, what)


@pytest.mark.parametrize("trial", trials(20, core=3))
def test_a_recording(trial, forks, recording, tmp_path):
    rng, path = random("recording", trial), tmp_path / "died.partial"
    shutil.copyfile(recording, path)
    converted(forks, path, damage, rng, tmp_path)


@pytest.mark.parametrize("trial", trials(20, core=3))
def test_an_npz(trial, forks, small_data, tmp_path):
    rng, path = random("npz", trial), tmp_path / "set.npz"
    with h5py.File(small_data) as file:
        np.savez(path, **{key: file[key][()] for key in file})
    converted(forks, path, damage, rng, tmp_path)


def converted(forks, path, harm, rng, folder):
    """Conversions before and after the damage."""
    whole, out = folder / "whole.hdf5", folder / "out.hdf5"
    assert forks.run("data", "convert", path, whole).code == 0
    what = harm(path, rng)
    outcome = forks.run("data", "convert", path, out, timeout=60)
    expected = arrays(whole)
    if path.suffix == ".partial" and "cut off" in what and outcome.code == 0:
        # As after a crash: what is there is kept, and its last row closes the trajectory.
        kept = arrays(out)["rewards"][:-1]
        assert kept == expected["rewards"][: len(kept)], what
        return
    answer(outcome, expected, lambda: arrays(out), what)


def arrays(path):
    with h5py.File(path) as file:
        return {key: file[key][()].tolist() for key in file} | {"env_id": file.attrs["env_id"]}


@pytest.mark.parametrize("trial", trials(20, core=0))
def test_a_results_file(trial, warm, plain, tmp_path):
    rng = random("results", trial)
    out = {name: tmp_path / name for name in ("first", "second", "third")}
    assert warm.here("report", plain.directory, "--out", out["first"]).code == 0
    path = out["first"] / "results.json"
    assert warm.here("report", path, "--out", out["second"]).code == 0
    what = damage(path, rng)
    outcome = warm.here("report", path, "--out", out["third"])
    expected = (out["second"] / "results.json").read_text()
    answer(outcome, expected, lambda: (out["third"] / "results.json").read_text(), what)


@pytest.mark.parametrize("trial", trials(20, core=3))
def test_an_experiment(trial, forks, small_data, tmp_path):
    """What people write themselves may mean something else after one byte: no traceback."""
    rng, path = random("experiment", trial), tmp_path / "spec.toml"
    path.write_text(spec(small_data))
    damage(path, rng)
    outcome = clean(forks.run(str(path), call="actions:cells"))
    if outcome.code:
        refused(outcome)
    else:
        assert json.loads(outcome.text.split("cells ")[1])
