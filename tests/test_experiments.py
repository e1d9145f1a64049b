"""Experiments: what a spec asks for; its runs are done, shared, skipped and gone on with."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pointmass
import pytest
import runs

import stratdiff
from stratdiff import experiments, registry
from stratdiff.errors import UserError
from stratdiff.experiments import compare, read_spec
from stratdiff.files import lock_directory
from stratdiff.splits import RatioOptions

SPEC = """
preset = "demo"
seeds = [3, 5]
[options]
rho = 0.4
iql.expectile = 0.8
[tasks.one]
dataset = "stratdiff/hopper-medium"
utd = 2
[tasks.two]
dataset = "stratdiff/antmaze-umaze"
[variants.base]
score = "none"
[variants.mine]
tasks = ["one"]
rho = 0.7
iql.inverse_temperature = 1.0
"""


def write(path, text):
    path.write_text(text)
    return path


def test_options_of_the_variant_win_over_the_task_s_and_the_common_ones(tmp_path):
    cells = {c.name: c.config for c in read_spec(write(tmp_path / "a.toml", SPEC))}
    assert list(cells) == ["one/base", "one/mine", "two/base"]
    base, mine, maze = cells.values()
    assert (base.utd, base.score, base.seeds) == (2, "none", (3, 5))
    assert (mine.splitting.rho, mine.utd, mine.score) == (0.7, 2, "guided")
    assert (mine.agent.expectile, mine.agent.inverse_temperature) == (0.8, 1.0)
    assert (base.agent.expectile, base.agent.inverse_temperature) == (0.8, 3.0)
    assert (maze.recipe, maze.utd, maze.eval_episodes) == ("antmaze", 1, 20)  # the demo's episodes


SWEEP = """
preset = "demo"
seeds = [0, 1]
[options]
iql.actor_hidden = [32, 32]
[tasks.t]
dataset = "stratdiff/hopper-medium"
[variants.plain]
score = "none"
track = []
[variants.support]
score = "support"
rho = [0.3, 0.5]
iql.critic_hidden = [64, 64]
iql.expectile = [0.7, 0.9]
[variants.of-both]
calql.sampled_actions = [4, 10]
base = ["iql", "calql"]
[variants.words]
offline_fraction = ["0.9:0.1", "uniform"]
normalize_states = [true]
"""


def test_lists_of_values_make_a_variant_of_each_combination(tmp_path):
    cells = {c.variant: c.config for c in read_spec(write(tmp_path / "a.toml", SWEEP))}
    assert list(cells) == [
        "plain",
        *("support-rho=0.3-iql.expectile=0.7", "support-rho=0.3-iql.expectile=0.9"),
        *("support-rho=0.5-iql.expectile=0.7", "support-rho=0.5-iql.expectile=0.9"),
        # Cal-QL's own list makes no two runs of IQL.
        "of-both-base=iql",
        *("of-both-base=calql-calql.sampled_actions=4",),
        *("of-both-base=calql-calql.sampled_actions=10",),
        *("words-offline_fraction=0.9-0.1-normalize_states=true",),
        *("words-offline_fraction=uniform-normalize_states=true",),
    ]
    one = cells["support-rho=0.5-iql.expectile=0.7"]
    assert (one.splitting.rho, one.agent.expectile) == (0.5, 0.7)
    # Options that are lists themselves stay whole.
    assert (one.seeds, one.agent.actor_hidden, one.agent.critic_hidden) == (
        *((0, 1), (32, 32)),
        (64, 64),
    )
    assert cells["of-both-base=calql-calql.sampled_actions=10"].agent.sampled_actions == 10
    assert cells["words-offline_fraction=0.9-0.1-normalize_states=true"].normalize_states is True


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("rho = []", "a/b: rho is []; it must be one value, or a list of some"),
        ("rho = [[0.3]]", "a/b: rho is [[0.3]]"),
        ("rho = [0.3, 2]", "a/b-rho=2: --rho is 2.0; it must be between 0 and 1"),
        ("rho = [0.3, 'x']", "a/b-rho=x: --rho is 'x'; it must be a number"),
        ("rho = [0.3, 0.3]", "a/b-rho=0.3 is asked for twice"),
        ("env_kwargs = [{a = 1}]", "a/b: env_kwargs is [{'a': 1}]"),
        ("base = ['iql', 'dqn']", "--base is 'dqn'; it must be one of"),
        ("iql.actor_hidden = [[64], [32]]", "must be a list of whole numbers"),
        ("[options]\nrho = [0.3]", "rho is [0.3]; a list of values must stand in [variants.NAME]"),
        (
            f"utd = {[*range(1, 50)]}\nbatch_size = {[*range(2, 50)]}",
            "asks for 1,000 cells or more",
        ),
        ("rho = [0.3]\n[variants.'b-rho=0.3']\nrho = 0.3", "a/b-rho=0.3 is asked for twice"),
        (f"env = ['{'x' * 250}']", "is no name of a folder"),
    ],
)
def test_a_wrong_list_is_one_sentence(tmp_path, variant, said):
    text = f"preset='demo'\n[tasks.a]\ndataset='stratdiff/hopper-medium'\n[variants.b]\n{variant}\n"
    with pytest.raises(UserError) as error:
        read_spec(write(tmp_path / "wrong.toml", text))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [", "TOML"),
        ("sedes = [1]", "nearest: seeds"),
        ("seeds = [1]", "no [tasks.NAME]"),
        ("tasks.a.dataset = 'stratdiff/hopper-medium'", "no [variants.NAME]"),
        ("[tasks.a]\n[variants.b]", "[tasks.a] has no dataset"),
        ("[tasks.'a/..']\ndataset='x'\n[variants.b]", "names a folder"),
        ("[tasks.a]\ndataset='x'\n[variants.pretrained]", "names a folder"),
        ("[tasks.a]\ndataset='x'\n[variants]\nb = 3", "give a table [variants.NAME] for each"),
        ("variants = ['b']\n[tasks.a]\ndataset='x'", "give a table [variants.NAME] for each"),
        ("options = 3\n[tasks.a]\ndataset='x'\n[variants.b]", "must be a table [options]"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\ntasks=['c']", "list of names of tasks"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\ntasks=[['a']]", "list of names of tasks"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\ntasks=[]", "no cell is left"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\nrhoo=1", "a/b: unknown option 'rhoo'"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\nrho=2", "a/b: --rho is 2.0"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\n''=1", "a/b: unknown option ''"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\nrho=true", "a/b: --rho is True; it must be a num"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\niql=5", "a/b: iql is 5; it must be a table"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\npreset='demo'", "variants.b.preset must stand"),
        ("[tasks.a]\ndataset='x'\n[variants.b]\ndataset='y'", "variants.b.dataset must stand"),
        ("[tasks.a]\ndataset='x'\n[variants.b-0.3]\nrho=0.3", '[variants."b-0.3"]'),
        ("[tasks.a]\ndataset='x'\n[variants.b]", "a/b: unknown data set 'x'"),
        ("[tasks.a]\ndataset='x.hdf5'\n[variants.b]", "a/b: data file 'x.hdf5' does not exist"),
        ("[tasks.a]\ndataset='/'\n[variants.b]", "a/b: data file '/' is a folder"),
        ("seeds=3\n[tasks.a]\ndataset='x'\n[variants.b]", "list of whole numbers"),
        ("seeds=[true]\n[tasks.a]\ndataset='x'\n[variants.b]", "list of whole numbers"),
        ("seeds={a=1}\n[tasks.a]\ndataset='x'\n[variants.b]", "list of whole numbers"),
    ],
)
def test_a_wrong_spec_is_one_sentence(tmp_path, text, said):
    path = write(tmp_path / "wrong.toml", text)
    with pytest.raises(UserError) as error:
        read_spec(path)
    assert said in str(error.value) and str(path) in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_spec(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + SPEC.encode())
    assert len(read_spec(tmp_path / "a.toml")) == 3


def test_a_missing_spec_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.toml.*does not exist"):
        read_spec(tmp_path / "no.toml")


@pytest.fixture
def spec(tmp_path, data_file, monkeypatch, programs):
    """Three cells that can be run and one whose losses become infinite."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(runs.TESTS), runs.SRC)))
    # The cells compile the same programs.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(programs))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    options = runs.TINY | {"seeds": [3, 5]}
    del options["preset"]
    text = "preset = 'demo'\n" + toml("options", options)
    text += f"[tasks.point]\ndataset = {str(data_file)!r}\n"
    text += "[variants.base]\nscore = 'none'\n[variants.guided]\n"
    text += "[variants.wild]\nscore = 'none'\niql.learning_rate = 1e30\n"
    text += "[variants.support]\nscore = 'support'\n"
    return write(tmp_path / "spec.toml", text)


def toml(name, table):
    lines = [f"[{name}]"]
    for key, value in table.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {json.dumps(value)}")
    for key, value in table.items():
        if isinstance(value, dict):
            lines.append(toml(f"{name}.{key}", value))
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_missing_cells_are_run_and_a_failed_one_stops_no_other(spec, tmp_path, capfd, untrusting):
    registry.trust(pointmass.ENV)  # as the command line does; the cells' processes inherit it
    cells, out, said = read_spec(spec), tmp_path / "out", []
    failed = compare(cells, out, say=said.append)
    assert list(failed) == ["point/wild"] and "became NaN or infinite" in failed["point/wild"]
    for name in ("base", "guided", "support"):
        assert (out / "point" / name / "summary.json").is_file()
    # `wild` has a base phase of its own, the other two take that of `base`; one behaviour model.
    taken = [x.split()[1] for x in capfd.readouterr().err.splitlines() if "taken from" in x]
    assert sorted(taken) == ["base", "base", "behaviour"]
    assert len(said) == 5 and said[0] == "4 cells: 0 done before, 0 that cannot be run"

    # A cell ends as a run of its own does, though it took phases over from other cells.
    guided = next(c for c in cells if c.variant == "guided").config
    alone = stratdiff.train(guided, tmp_path / "alone", reporter=runs.QUIET)
    shared = json.loads((out / "point/guided/summary.json").read_text())
    assert shared["parameters_sha256"] == alone.summary["parameters_sha256"]
    assert runs.log_points(out / "point/guided") == runs.log_points(tmp_path / "alone")
    assert shared["seconds"]["base"] > 0  # what the phase took where it was trained
    phases = sorted(p.name.split("-")[0] for p in (out / "pretrained").iterdir() if p.is_dir())
    assert phases == ["base", "behaviour", "energy", "support"]

    # Done is skipped, cut off goes on, other options are refused.
    before = (out / "point/base/summary.json").stat().st_mtime_ns
    shutil.copy(out / "point/support/summary.json", tmp_path / "kept.json")
    (out / "point/support/summary.json").write_text("")
    changed = [
        c._replace(config=dataclasses.replace(c.config, splitting=RatioOptions(0.3)))
        if c.variant == "guided"
        else c
        for c in cells
        if c.variant != "wild"
    ]
    failed = compare(changed, out, say=said.append)
    assert "rho 0.5" in failed["point/guided"] and "0.3" in failed["point/guided"]
    assert len(failed) == 1
    assert (out / "point/base/summary.json").stat().st_mtime_ns == before
    again = json.loads((out / "point/support/summary.json").read_text())
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert again["parameters_sha256"] == kept["parameters_sha256"]
    assert "3 cells: 1 done before, 1 that cannot be run" in said


@pytest.mark.slow
def test_a_damaged_phase_is_trained_again_and_a_broken_cell_is_named(spec, tmp_path):
    cells, out = [c for c in read_spec(spec) if c.variant == "base"], tmp_path / "out"
    assert compare(cells, out, say=lambda _: None) == {}
    first = json.loads((out / "point/base/summary.json").read_text())
    shutil.rmtree(out / "point")
    (phase,) = (p for p in (out / "pretrained").iterdir() if p.is_dir())
    (phase / "arrays.safetensors").write_bytes(b"cut")
    assert compare(cells, out, say=lambda _: None) == {}
    again = json.loads((out / "point/base/summary.json").read_text())
    assert again["parameters_sha256"] == first["parameters_sha256"]
    assert (phase / "arrays.safetensors").stat().st_size > 1000
    (out / "point/base/config.json").write_text("{")
    failed = compare(cells, out, say=lambda _: None)
    assert "could not be read as JSON" in failed["point/base"] and "Remove" in failed["point/base"]


def test_a_spec_s_code_needs_trust(spec, tmp_path, untrusting):
    """Of the tasks, and of every option that may name any."""
    with pytest.raises(UserError) as caught:
        read_spec(spec)
    for word in (repr(pointmass.ENV), "--trust-modules", "point/base"):
        assert word in str(caught.value)
    text = "[tasks.a]\ndataset='stratdiff/hopper-medium'\n[variants.b]\n"
    with pytest.raises(UserError, match="'own_parts:OwnScore' is code that a file names as --sco"):
        read_spec(write(tmp_path / "a.toml", text + "score='own_parts:OwnScore'"))
    registry.trust("own_parts:OwnScore")
    (cell,) = read_spec(tmp_path / "a.toml")
    assert cell.config.scoring.curiosity == 0.5


def test_cells_that_start_from_another_run_are_known_again(tmp_path, monkeypatch):
    """A run writes its paths from the root; the experiment may name them from its folder."""
    monkeypatch.chdir(tmp_path)
    text = 'preset = "demo"\n[options]\nfrom_run = "runs/offline"\n[tasks.a]\n'
    text += 'dataset = "stratdiff/hopper-medium"\n[variants.b]\n'
    cells = read_spec(write(tmp_path / "spec.toml", text))
    directory = tmp_path / "out/a/b"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(cells[0].config.located().to_json())
    (directory / "summary.json").write_text('{"seeds": [0]}')
    said = []
    assert compare(cells, tmp_path / "out", say=said.append) == {}
    assert said == ["1 cells: 1 done before, 0 that cannot be run"]


def test_a_cell_whose_summary_is_not_here_is_named(tmp_path, monkeypatch):
    """As on a cluster whose machines do not share OUT."""
    text = '[tasks.a]\ndataset = "stratdiff/hopper-medium"\n[variants.b]\n[variants.c]\nrho = 0.1\n'
    cells = read_spec(write(tmp_path / "spec.toml", text))
    monkeypatch.setattr(experiments, "on_ray", lambda waiting, *_: ((c, "") for c in waiting))
    # There is no table of what runs, as Ray's processes do not tell.
    monkeypatch.setattr(experiments.Board, "__enter__", lambda board: pytest.fail("it was shown"))
    failed = compare(cells, tmp_path / "out", ray=True, say=lambda _: None)
    assert {*failed} == {"a/b", "a/c"}
    assert "its summary.json cannot be read on this machine" in failed["a/b"]


def test_an_out_that_cannot_be_made_is_named(spec, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out is '.*file'"):
        compare(read_spec(spec), tmp_path / "file", say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_compare_that_is_stopped_leaves_no_run_behind(spec, tmp_path, number):
    spec.write_text(spec.read_text().replace("offline_steps = 60", "offline_steps = 10_000_000"))
    run, command = tmp_path / "out/point/base", [sys.executable, "-m", "stratdiff.cli", "compare"]
    arguments = [str(spec), "--out", str(tmp_path / "out"), "--trust-modules"]
    process = subprocess.Popen([*command, *arguments])
    limit = time.monotonic() + 120
    while not (run / "checkpoints").is_dir() and time.monotonic() < limit:
        time.sleep(0.1)
    with pytest.raises(UserError, match="another process"), lock_directory(run):
        pass
    process.send_signal(number)
    killed = number == signal.SIGKILL
    # The cell's process takes a checkpoint at its next log point; it compiles its program first.
    assert process.wait(90) == (-9 if killed else 143)
    with lock_directory(run, wait=60.0 if killed else 0.0):  # nobody trains there any more
        pass


@pytest.mark.slow
def test_runs_side_by_side_are_those_of_one_after_another(spec, tmp_path):
    """To the bit, though the cores are shared out; a cell that fails stops no other."""
    cells = [cell for cell in read_spec(spec) if cell.variant != "guided"]
    for jobs in (1, 2):
        failed = compare(cells, tmp_path / str(jobs), jobs=jobs, say=lambda _: None)
        assert list(failed) == ["point/wild"]
    for variant in ("base", "support"):
        one, two = (tmp_path / jobs / "point" / variant for jobs in "12")
        sums = [runs.summary(run)["parameters_sha256"] for run in (one, two)]
        assert sums[0] == sums[1]
        assert runs.log_points(one) == runs.log_points(two)


def test_a_wrong_number_of_jobs_is_one_sentence(tmp_path):
    cells = read_spec(write(tmp_path / "a.toml", SPEC))
    with pytest.raises(UserError, match="--jobs is 0; it must be 1 or more"):
        compare(cells, tmp_path / "out", jobs=0)
    with pytest.raises(UserError, match="--jobs is 2, but --ray"):
        compare(cells, tmp_path / "out", jobs=2, ray=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ray_runs_the_cells_side_by_side(spec, tmp_path):
    pytest.importorskip("ray")
    cells = [c for c in read_spec(spec) if c.variant != "guided"]
    failed = compare(cells, tmp_path / "out", ray=True, say=lambda _: None)
    assert list(failed) == ["point/wild"] and "became NaN or infinite" in failed["point/wild"]
    assert (tmp_path / "out/point/support/summary.json").is_file()


def test_ray_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    cells = read_spec(write(tmp_path / "a.toml", SPEC))
    with pytest.raises(UserError, match=r"pip install 'stratdiff\[ray\]'"):
        compare(cells, tmp_path / "out", ray=True, say=lambda _: None)


@pytest.mark.parametrize("path", sorted((runs.TESTS.parent / "experiments").glob("*.toml")))
def test_the_experiments_of_the_repository_can_be_read(path):
    cells = read_spec(path)
    assert len({cell.name for cell in cells}) == len(cells)
    assert len(cells) == 2 if path.stem == "demo" else len(cells) > 4
    plain = [c for c in cells if c.config.score == "none" and c.config.base != "sac"]
    assert {c.config.base for c in cells} - {"sac"} == {c.config.base for c in plain}
