"""Runs and commands that are killed, again and again: what they leave ends as if nothing was.

A moment is the k-th change of a file, which is the same every time, or a share of the run's time,
which also hits what lies between. SIGINT and SIGTERM must be answered with one message and their
exit code; SIGKILL cannot be answered.
"""

import shutil
import signal
import time

import pytest
from trials import clean, command, names, random, result, same, spec, trials, well

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
SIGNALS = [*CODES]


def answered(outcome, number, child):
    """The process ended as the signal asks for, or before it came."""
    clean(outcome)
    assert outcome.code in (0, CODES[number]), f"{number.name}: {outcome.code}\n{outcome.text}"
    if number != signal.SIGKILL:
        limit = time.monotonic() + 10
        while child.session() and time.monotonic() < limit:
            time.sleep(0.05)
        assert not child.session(), f"{number.name} left a child\n{outcome.text}"


def kill(forks, arguments, rng, seconds, changes=0, root=""):
    """A command that one signal ends at one moment."""
    number = SIGNALS[rng.integers(3)]
    if changes and rng.random() < 0.5:
        moment = int(rng.integers(1, changes + 1))
        child = forks.start(*arguments, signal=[number, moment], root=str(root))
    else:
        child = forks.start(*arguments)
        time.sleep(rng.random() * seconds)
        child.send(number)
    answered(child.wait(), number, child)


def go_on(data, run, kind):
    """What a user calls next: `resume`, or `train` again where nothing was begun."""
    begun = (run / "config.json").is_file()
    return ("resume", run, "--trust-modules") if begun else command(data, run, kind)


def chain(forks, data, whole, kind, run, rng, kills):
    """A run killed `kills` times, then left to end."""
    run.parent.mkdir(exist_ok=True)
    for _ in range(kills):
        kill(forks, go_on(data, run, kind), rng, whole.seconds, whole.changes, run)
    well(forks.run(*go_on(data, run, kind)))
    same(result(run), whole.result)
    assert names(run) == names(whole.directory)


@pytest.mark.parametrize("trial", trials(18, core=0))
def test_a_run(trial, forks, small_data, plain, tmp_path, record_property):
    record_property("trials", 3)
    chain(forks, small_data, plain, "none", tmp_path / "run", random("run", trial), 3)


@pytest.mark.parametrize("trial", trials(5, core=0))
def test_a_run_of_all_phases(trial, forks, small_data, guided, tmp_path, record_property):
    record_property("trials", 3)
    chain(forks, small_data, guided, "guided", tmp_path / "run", random("phases", trial), 3)


@pytest.mark.parametrize("trial", trials(3, core=0))
def test_a_comparison(trial, forks, small_data, plain, guided, tmp_path, record_property):
    record_property("trials", 2)
    rng, out = random("compare", trial), tmp_path / "out"
    (tmp_path / "spec.toml").write_text(spec(small_data))
    arguments = ("compare", tmp_path / "spec.toml", "--out", out, "--trust-modules")
    for _ in range(2):
        kill(forks, arguments, rng, 8 + plain.seconds + guided.seconds)
    well(forks.run(*arguments))
    for whole in (plain, guided):
        run = out / "point" / whole.directory.name
        same(result(run), whole.result)
        assert names(run) == names(whole.directory) - {"support.npy"}


@pytest.fixture(scope="module")
def made(forks, tmp_path_factory):
    """(seconds, changes, bytes) of a set that is made without a cut."""
    folder = tmp_path_factory.mktemp("made")
    outcome = well(
        forks.run(
            *MAKE, "--jobs", "2", env={"STRATDIFF_CACHE": str(folder)}, root=str(folder),
            changes=str(folder / "changes"),
        )
    )  # fmt: skip
    (file,) = folder.glob("*.hdf5")
    return outcome.seconds, int((folder / "changes").read_text()), file.read_bytes()


MAKE = ("data", "make", "stratdiff/hopper-random", "--size", "6000")


@pytest.mark.parametrize("trial", trials(6, core=0))
def test_a_made_set(trial, forks, made, tmp_path, record_property):
    record_property("trials", 2)
    rng, (seconds, changes, content) = random("made", trial), made
    job = {"env": {"STRATDIFF_CACHE": str(tmp_path)}, "root": str(tmp_path)}
    for _ in range(2):
        number = SIGNALS[rng.integers(3)]
        jobs = str(rng.integers(1, 3))
        if rng.random() < 0.5:
            moment = int(rng.integers(1, changes + 1))
            child = forks.start(*MAKE, "--jobs", jobs, signal=[number, moment], **job)
        else:
            child = forks.start(*MAKE, "--jobs", jobs, **job)
            time.sleep(rng.random() * seconds)
            child.send(number)
        answered(child.wait(), number, child)
    well(forks.run(*MAKE, **job))
    (file,) = tmp_path.glob("*.hdf5")
    assert file.read_bytes() == content
    assert names(tmp_path) == {file.name}


@pytest.mark.parametrize("trial", trials(12, core=3))
def test_a_conversion(trial, forks, small_data, recording, tmp_path):
    rng, out = random("convert", trial), tmp_path / "out" / "set.hdf5"
    arguments = ("data", "convert", recording, out)
    kill(forks, arguments, rng, 0.3, 8, tmp_path / "out")
    if not out.is_file():
        well(forks.run(*arguments))
    expected = tmp_path / "expected.hdf5"
    well(forks.run("data", "convert", recording, expected))
    assert out.read_bytes() == expected.read_bytes()
    assert names(out.parent) == {out.name}


@pytest.mark.parametrize("trial", trials(10, core=0))
def test_a_report(trial, forks, plain, tmp_path):
    rng, run, out = random("report", trial), tmp_path / "run", tmp_path / "out"
    shutil.copytree(plain.directory, run)
    arguments = ("report", run, "--out", out)
    well(forks.run(*arguments[:2], "--out", tmp_path / "whole"))
    kill(forks, arguments, rng, 2.0, 30, out)
    well(forks.run(*arguments))
    assert names(out) == names(tmp_path / "whole")
    found, whole = ((folder / "results.json").read_bytes() for folder in (out, tmp_path / "whole"))
    assert found == whole


@pytest.mark.parametrize("trial", trials(3, core=0))
def test_an_evaluation(trial, forks, plain):
    rng = random("eval", trial)
    arguments = ("eval", plain.directory, "--episodes", "30", "--trust-modules")
    kill(forks, arguments, rng, 1.0)
    assert names(plain.directory) >= {"config.json", "summary.json"}
