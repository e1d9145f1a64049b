"""Hostile files, and things that are no files: no traceback, no hang, no memory beyond a limit.

Every command runs in a child with so much memory and so much time. Hypothesis draws the same files
every time.
"""

import json
import os
import shutil

import hostile
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from trials import cases, clean, refused

MEMORY = 512 * 2**20
SECONDS = 20
LONG = (pytest.mark.slow, pytest.mark.faults)


def examples(number):
    """So many, the same ones every time; a failure is not shrunk, since each costs a process."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


# The number of files, and whether they are for `make test` too.
SIZES = [pytest.param(4, id="few"), pytest.param(60, id="many", marks=LONG)]


def readable(outcome, what):
    """It was taken, or refused in a sentence."""
    try:
        clean(outcome)
        assert outcome.code == 0 or refused(outcome)
    except AssertionError as error:
        raise AssertionError(f"{what}\n{error}") from error


def limited(forks, *args, **job):
    return forks.run(*args, timeout=SECONDS, memory=MEMORY, **job)


def each(strategy, number, folder, check, record_property):
    """Check so many files of a strategy, and tell of all that fail, not of the first one alone."""
    tried, failed = [], {}

    @examples(number)
    @given(strategy)
    def draw(drawn):
        tried.append(drawn)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            check(drawn)
        except AssertionError as error:
            failed.setdefault(repr(drawn)[:300], str(error)[-1500:])

    draw()
    record_property("trials", len(tried))
    record_property("failures", len(failed))
    assert not failed, f"{len(failed)} of {len(tried)}\n" + "\n\n".join(
        f"--- {drawn}\n{error}" for drawn, error in list(failed.items())[:12]
    )


@pytest.mark.parametrize("number", SIZES)
def test_hdf5(number, forks, tmp_path, record_property):
    folder = tmp_path / "x"

    def check(drawn):
        plan, attributes = drawn
        path = folder / "set.hdf5"
        try:
            hostile.write_hdf5(path, plan, attributes)
        except (TypeError, ValueError, OSError):  # HDF5 itself has no such file
            assume(False)
        outcome = limited(forks, "data", "info", path, "--json")
        readable(outcome, drawn)
        outside = {"external storage", "external link", "virtual"} & set(plan.values())
        assert not (outside and outcome.code == 0), f"{outside} was read"

    each(hostile.hdf5_plans(), number, folder, check, record_property)


@pytest.mark.parametrize("number", SIZES)
def test_npz(number, forks, tmp_path, record_property):
    folder = tmp_path / "x"

    def check(drawn):
        path = folder / "set.npz"
        hostile.write_npz(path, *drawn)
        readable(limited(forks, "data", "convert", path, folder / "out.hdf5"), drawn)

    each(hostile.npz_plans(), number, folder, check, record_property)


@pytest.mark.faults
@pytest.mark.slow
def test_a_zip_bomb(forks, tmp_path):
    path = tmp_path / "bomb.npz"
    hostile.bomb_npz(path)
    refused(limited(forks, "data", "convert", path, tmp_path / "out.hdf5"))


# Files of a run that is never started: its data are not there.
CONFIG = {
    "dataset": "/nowhere/set.hdf5", "env": "Hopper-v4", "base": "iql", "score": "none",
    "split": "ratio", "seeds": [0], "batch_size": 16, "rho": 0.5, "offline_steps": 60,
    "online_steps": 120, "track": [], "iql": {"expectile": 0.7, "actor_hidden": [8]},
}  # fmt: skip
SUMMARY = {
    "score": {
        "before": {"per_seed": [1.0], "mean": 1.0}, "after": {"per_seed": [2.0], "mean": 2.0}
    },
    "normalized": True, "seeds": [0], "environment": "Hopper-v4", "seconds": {"base": 1.0},
    "dataset": {"name": "x", "mean_score": 3.0}, "updates_per_second": {"base": 2.0},
    "online_seconds": {}, "versions": {"jax": "1"}, "device": "cpu", "git_revision": None,
    "parameters_sha256": ["0"],
}  # fmt: skip
METRICS = [
    {"phase": "base", "step": 60, "time": 1.0, "score": [1.0], "return": [1.0]},
    {"phase": "online", "step": 120, "time": 2.0, "score": [2.0], "return": [2.0]},
]
RUN = {"config": CONFIG, "summary": SUMMARY, "metrics": METRICS}


def write_run(folder, name="", path="", text="", wrapping="plain"):
    """A finished run, with one value of one of its files replaced."""
    folder.mkdir(exist_ok=True)
    for key, table in RUN.items():
        whole = hostile.changed(table, path, text) if key == name else json.dumps(table)
        if key == "metrics" and whole[:1] == "[" and key != name:
            whole = "\n".join(json.dumps(record) for record in table) + "\n"
        elif key == "metrics":
            whole = whole.removeprefix("[").removesuffix("]").replace("}, {", "}\n{") + "\n"
        file = {"metrics": "metrics.jsonl"}.get(key, f"{key}.json")
        way = wrapping if key == name else "plain"
        (folder / file).write_bytes(hostile.wrapped(whole, way))


@pytest.mark.parametrize("command", ["report", "resume", "train"])
@pytest.mark.parametrize("number", SIZES)
def test_json(number, command, forks, tmp_path, record_property):
    folder = tmp_path / "x"
    tables = RUN if command == "report" else {"config": CONFIG}

    def check(drawn):
        write_run(folder / "run", *drawn)
        arguments = {
            "report": ("report", folder / "run", "--out", folder / "page"),
            "resume": ("resume", folder / "run"),
            "train": ("train", "--config", folder / "run/config.json", "--out", folder / "new",
                      "--dataset", "/nowhere/set.hdf5"),
        }[command]  # fmt: skip
        readable(limited(forks, *arguments), drawn)
        assert not (folder / "new").exists(), f"{drawn}: a refused run left its folder"

    share = number if number < 10 else number // 2
    each(hostile.json_changes(tables), share, folder, check, record_property)


def test_the_run_that_is_changed_is_good(forks, tmp_path):
    """Otherwise its changes would all be refused for another reason."""
    write_run(tmp_path / "run")
    outcome = limited(forks, "report", tmp_path / "run", "--out", tmp_path / "page")
    assert clean(outcome).code == 0, outcome.text
    assert "/nowhere/set.hdf5" in refused(limited(forks, "resume", tmp_path / "run"))


@pytest.mark.parametrize("number", SIZES)
def test_results(number, forks, tmp_path, record_property):
    """The compact results of a report, read again."""
    folder, first = tmp_path / "x", tmp_path / "first"
    write_run(tmp_path / "run")
    assert limited(forks, "report", tmp_path / "run", "--out", first).code == 0
    table = json.loads((first / "results.json").read_text())

    def check(drawn):
        _, path, text, wrapping = drawn
        file = folder / "results.json"
        file.write_bytes(hostile.wrapped(hostile.changed(table, path, text), wrapping))
        readable(limited(forks, "report", file, "--out", folder / "page"), drawn)

    share = number if number < 10 else number // 2
    each(hostile.json_changes({"results": table}), share, folder, check, record_property)


@pytest.mark.parametrize("number", SIZES)
def test_toml(number, forks, tmp_path, record_property):
    folder = tmp_path / "x"

    def check(drawn):
        key, value, wrapping = drawn
        text = f"{key} = {value}\n"
        if not key.startswith("tasks"):
            text += "[tasks.t]\ndataset = '/nowhere/set.hdf5'\n"
        if not key.startswith("variants"):
            text += "[variants.a]\n"
        (folder / "spec.toml").write_bytes(hostile.wrapped(text, wrapping))
        out = folder / "out"
        readable(limited(forks, "compare", folder / "spec.toml", "--out", out), drawn)

    each(hostile.toml_changes, number, folder, check, record_property)


@pytest.mark.parametrize("number", SIZES)
def test_safetensors(number, forks, tmp_path, record_property):
    folder = tmp_path / "x"

    def check(drawn):
        write_run(folder / "run")
        (folder / "run/policy.safetensors").write_bytes(hostile.tensors(*drawn))
        refuses = limited(forks, "eval", folder / "run", "--episodes", 1)
        try:
            refused(refuses)
        except AssertionError as error:
            raise AssertionError(f"{drawn}\n{error}") from error

    drawn = st.tuples(hostile.HEADERS, st.sampled_from(hostile.LENGTHS))
    each(drawn, number, folder, check, record_property)


# The command that reads it, by the file's place below the trial's folder.
READERS = {
    "data file": ("set.hdf5", ("data", "info", "{}")),
    "checked data": ("set.hdf5", ("data", "check", "{}")),
    "training data": ("set.hdf5", ("train", "--dataset", "{}", "--out", "{}.run")),
    "npz": ("set.npz", ("data", "convert", "{}", "{}.out")),
    "recording": ("set.hdf5.partial", ("data", "convert", "{}", "{}.out")),
    "results": ("results.json", ("report", "{}", "--out", "{}.page")),
    "config": ("run/config.json", ("resume", "run")),
    "config option": ("config.json", ("train", "--config", "{}", "--out", "{}.run")),
    "metrics": ("run/metrics.jsonl", ("report", "run", "--out", "page")),
    "summary": ("run/summary.json", ("report", "run", "--out", "page")),
    "policy": ("run/policy.safetensors", ("eval", "run")),
    "experiment": ("spec.toml", ("compare", "{}", "--out", "{}.out")),
}
NO_FILES = [(f"{reader}-{kind}", (reader, kind)) for reader in READERS for kind in hostile.NO_FILES]
FEW = ("data file-fifo", "config-/dev/zero", "experiment-socket", "npz-symlink loop", "policy-fifo")


@pytest.mark.parametrize(("reader", "kind"), cases(NO_FILES, FEW))
def test_no_file(reader, kind, forks, tmp_path):
    """What is no file, or an endless one, where one is expected."""
    name, arguments = READERS[reader]
    write_run(tmp_path / "run")
    path = tmp_path / name
    path.unlink(missing_ok=True)
    hostile.NO_FILES[kind](path)
    words = [word.format(path) for word in arguments]
    refused(limited(forks, *words, cwd=str(tmp_path)))


@pytest.mark.parametrize(
    ("reader", "name"),
    cases(
        [
            (f"{reader}-{i}", (reader, name))
            for reader in ("data file", "npz", "results", "experiment", "config option")
            for i, name in enumerate(hostile.ODD_NAMES)
        ]
    ),
)
def test_odd_names(reader, name, forks, tmp_path):
    """A file that is there under such a name is read; what is shown of it can be shown."""
    place, arguments = READERS[reader]
    path = tmp_path / (name + os.path.splitext(place)[1])
    if reader == "data file":
        hostile.write_hdf5(path, {}, {})
    elif reader == "npz":
        hostile.write_npz(path, {}, "stored")
    else:
        path.write_text("{")
    words = [word.format(path) for word in arguments]
    outcome = limited(forks, *words)
    if reader in ("data file", "npz"):
        assert clean(outcome).code == 0, outcome.text
    else:
        refused(outcome)
