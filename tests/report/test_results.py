"""Which runs are read, and what a broken one is told."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.errors import UserError
from stratdiff.experiments import read_spec
from stratdiff.report import compact, results
from stratdiff.report.runs import title

COMMITTED = Path(__file__).parents[2] / "experiments" / "results"
SCORES = ("none", "random", "guided", "support")


def read(*paths):
    return results.read([str(p) for p in paths])


def test_a_run_is_what_its_files_say(tmp_path):
    directory = write_run(tmp_path / "x" / "stratdiff", log_points=100)
    (run,), left_out = read(tmp_path)
    summary = json.loads((directory / "summary.json").read_text())
    assert left_out == []
    assert (run.task, run.variant, run.base) == ("halfcheetah-medium-replay", "stratdiff", "iql")
    assert run.before.tolist() == summary["score"]["before"]["per_seed"]
    assert run.after.tolist() == summary["score"]["after"]["per_seed"]
    assert run.evaluations["online"]["step"].tolist() == list(range(0, 10_001, 1000))
    assert run.evaluations["base"]["score"].shape == (4, 3)
    assert len(run.diagnostics["step"]) == compact.POINTS
    assert run.diagnostics["step"][-1] == 10_000
    # A thinned point is the mean of the log points since the last one.
    records = [json.loads(x) for x in (directory / "metrics.jsonl").read_text().splitlines()]
    logged = [r for r in records if r["phase"] == "online" and "q_mean" in r]
    first = [r["q_mean"] for r in logged if r["step"] <= run.diagnostics["step"][0]]
    assert len(first) == 3
    np.testing.assert_allclose(run.diagnostics["q_mean"][0], np.mean(first, 0), rtol=1e-4)
    # Before any online row is in a batch, its numbers are null.
    assert np.isnan(run.diagnostics["alignment_auc"][0]).all()
    assert np.isfinite(run.diagnostics["alignment_auc"][-1]).all()


def test_the_base_in_front_of_a_variant_s_name_is_dropped(tmp_path):
    for base in ("iql", "calql"):
        for name, score in (("base", "none"), ("random", "random")):
            write_run(tmp_path / "task" / f"{base}-{name}", base=base, score=score)
    runs, _ = read(tmp_path)
    assert [(r.base, r.variant) for r in runs] == [
        (base, name) for base in ("iql", "calql") for name in ("base", "random")
    ]


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        (lambda d: (d / "summary.json").unlink(), "no summary.json: the run did not finish"),
        (lambda d: (d / "summary.json").write_text("{"), "summary.json' could not be read as JSON"),
        (lambda d: (d / "summary.json").write_text("[1]"), "does not hold one JSON object"),
        (lambda d: (d / "summary.json").write_text("{}"), "KeyError: 'normalized'"),
        (lambda d: (d / "config.json").write_text("no"), "config.json' could not be read as JSON"),
        (lambda d: (d / "config.json").write_text("{}"), "not of a run's form"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\x00"), "config.json' could not be read"),
        (lambda d: (d / "metrics.jsonl").unlink(), "metrics.jsonl is not complete (nothing"),
        (lambda d: (d / "metrics.jsonl").write_bytes(b"\xff\n"), "metrics.jsonl could not"),
        (lambda d: (d / "metrics.jsonl").write_text('{"a": 3}\n'), "its phase, step or time is"),
        (lambda d: _repeat(d), "steps go back"),
        (lambda d: _cut(d), "metrics.jsonl is not complete (online step 5000 of 10000)"),
        (lambda d: _swap(d, '"score": [', '"score": ["x", '), "'score' is no list of numbers"),
        (lambda d: _swap(d, '"step": 1000,', '"step": "1000",'), "its phase, step or time is"),
        (lambda d: _swap(d, '"guided"', "3", "config.json"), "expected a name, got 3"),
        (
            lambda d: _swap(d, '"base": "iql"', '"base": null', "config.json"),
            "expected a name, got None",
        ),
        (lambda d: _swap(d, '"score"', '"method"', "config.json"), "not of a run's form"),
        (lambda d: _swap(d, '"utd": 1', '"utd": [1]', "config.json"), "steps, UTD and episodes"),
        (
            lambda d: _swap(d, '"eval_episodes": 20', '"eval_episodes": "20"', "config.json"),
            "steps, UTD and episodes must be whole numbers",
        ),
        (
            lambda d: _swap(d, '"env": "HalfCheetah-v4"', '"env": ["a"]', "config.json"),
            "env and fingerprint must be text",
        ),
    ],
)
def test_what_is_broken_is_named_and_left_out(tmp_path, breaking, reason):
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad")
    breaking(bad)
    runs, left_out = read(tmp_path)
    assert [r.variant for r in runs] == ["good"]
    assert [x.path for x in left_out] == [str(bad)]
    assert reason in left_out[0].reason


def _repeat(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    (directory / "metrics.jsonl").write_text("\n".join([*lines[:-1], *lines[-2:]]) + "\n")


def _cut(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    kept = [x for x in lines if json.loads(x)["phase"] != "online" or json.loads(x)["step"] <= 5000]
    (directory / "metrics.jsonl").write_text("\n".join([*kept, '{"phase": "onl']))


def _swap(directory, old, new, name="metrics.jsonl"):
    text = (directory / name).read_text()
    assert old in text
    (directory / name).write_text(text.replace(old, new))


def test_a_run_that_was_ended_or_not_evaluated_is_named_so(tmp_path):
    write_run(tmp_path / "good")
    for name, change in (
        ("ended", {"summary.json": ('"online_steps": 10000', '"online_steps": 6000')}),
        ("blind", {"config.json": ('"eval_episodes": 20', '"eval_episodes": 0')}),
    ):
        directory = write_run(tmp_path / name)
        _cut(directory)
        for file, (old, new) in change.items():
            _swap(directory, old, new, file)
    reasons = {Path(x.path).name: x.reason for x in read(tmp_path)[1]}
    assert reasons == {
        "ended": "it was ended at online step 6000 of 10000",
        "blind": "it was not evaluated (eval_episodes is 0)",
    }


def test_half_finished_and_empty(tmp_path):
    write_run(tmp_path / "good")
    cut = write_run(tmp_path / "cut", finished=False)
    (tmp_path / "empty").mkdir()
    _, left_out = read(tmp_path, tmp_path / "empty")
    assert len(left_out) == 2
    assert f"(online step 3000 of 10000); `stratdiff resume {cut}` goes on" in left_out[0].reason
    assert left_out[1] == results.LeftOut(
        str(tmp_path / "empty"), "no run is in it: no config.json there or below"
    )


def test_mistakes(tmp_path):
    write_run(tmp_path / "cut", finished=False)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "other.json").write_text('{"format": "stratdiff results 99"}')
    for path, expected in [
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be read .File name too long"),
        (tmp_path / "cut", "there is no finished run to report"),
        (tmp_path / "notes.txt", "is no results file"),
        (tmp_path / "other.json", "its format is 'stratdiff results 99'"),
    ]:
        with pytest.raises(UserError, match=expected):
            read(path)
    with pytest.raises(UserError, match="directory"):
        results.read([])


def test_pretrained_and_hidden_folders_are_no_runs(tmp_path):
    for name in ("task/pretrained", "task/.old", "task/stratdiff"):
        write_run(tmp_path / name)
    runs, left_out = read(tmp_path)
    assert [r.variant for r in runs] == ["stratdiff"] and left_out == []


def test_a_run_given_twice_is_read_once(tmp_path):
    write_run(tmp_path / "a")
    assert len(read(tmp_path, tmp_path / "a", tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("stem", "old"),
    [("iql-guided", False), ("iql-guided", True), ("iql-stratdiff", True)],
)
def test_names_that_train_gives(tmp_path, stem, old):
    stem = f"halfcheetah-medium-replay-{stem}-20261125-02383"
    write_run(tmp_path / f"{stem}0", seeds=(0,), old=old)
    assert [r.variant for r in read(tmp_path)[0]] == ["guided"]
    write_run(tmp_path / f"{stem}1", seeds=(1,))
    assert [(r.variant, r.seeds) for r in read(tmp_path)[0]] == [("guided", (0, 1))]
    write_run(tmp_path / f"{stem}2", seeds=(1,))
    assert len({r.variant for r in read(tmp_path)[0]}) == 3


@pytest.mark.parametrize(
    ("middle", "variant", "options"),
    [
        ("iql-none", "plain", {"score": "none"}),
        ("iql-base", "plain", {"score": "none", "old": True}),
        ("iql-random", "random", {"score": "random"}),
        ("mine:TD3BC-guided", "guided", {"base": "mine:TD3BC"}),
        ("TD3BC-Novelty", "Novelty", {"base": "mine:TD3BC", "score": "mine:Novelty"}),
        # Another base's or score's name is one that somebody chose.
        ("sac-guided", "halfcheetah-medium-replay-sac-guided-20261125-023830", {}),
        ("iql-support", "halfcheetah-medium-replay-iql-support-20261125-023830", {}),
    ],
)
def test_default_names_are_known_by_what_was_run(tmp_path, middle, variant, options):
    write_run(tmp_path / f"halfcheetah-medium-replay-{middle}-20261125-023830", **options)
    assert [r.variant for r in read(tmp_path)[0]] == [variant]


def test_runs_of_the_earlier_vocabulary_are_the_same_runs(tmp_path):
    for score in ("none", "random", "guided", "support"):
        write_run(tmp_path / "new" / score, score=score)
        write_run(tmp_path / "old" / score, score=score, old=True)
    old, new = (read(tmp_path / x)[0] for x in ("old", "new"))
    assert "method" in json.loads((tmp_path / "old" / "none" / "config.json").read_text())
    assert [r.score for r in old] == [r.score for r in new] == [*SCORES]
    assert [r.config for r in old] == [r.config for r in new]


def test_the_committed_results_are_read():
    runs, left_out = read(*sorted(COMMITTED.glob("*.json")))
    assert left_out == [] and len(runs) >= 60
    # What is planned has been run in part; nothing else was.
    specs = ("core-more.toml", "core.toml")
    cells = (c for spec in specs for c in read_spec(COMMITTED.parent / spec))
    planned = {c.name: c.config for c in cells}
    core = []
    # No average mixes what was chosen on with what is reported on.
    for name, kinds in (("core", {"medium-replay"}), ("core-held-out", {"medium", "mixed"})):
        (part, _) = read(COMMITTED / f"{name}.json")
        assert {r.task.partition("-")[2] for r in part} <= kinds
        core += part
    cells = {f"{r.task}/{r.base}-{r.variant}": r for r in core}
    assert cells.keys() <= planned.keys() and len(cells) == len(core)
    for name, run in cells.items():
        assert run.config["seeds"] == [*planned[name].seeds] == [*range(10)]
        assert run.config["online_steps"] == planned[name].online_steps == 20_000
        assert (run.score, run.config["utd"]) == (planned[name].score, planned[name].utd)
    scores = (*SCORES, "origin", "likelihood")
    pairs = {(base, score) for base in ("iql", "calql") for score in scores}
    assert {(r.base, r.score) for r in runs} == pairs
    assert all("method" not in r.config for r in runs)
    assert {r.config["split"] for r in runs} == {"ratio", "exchange"}


def test_bases_and_scores_from_outside_are_not_refused(tmp_path):
    write_run(tmp_path / "plain", base="mine.agents:TD3BC", score="none")
    write_run(tmp_path / "novelty", base="mine.agents:TD3BC", score="mine:Novelty\x07")
    write_run(tmp_path / "new", base="iql", score="exchange")
    runs, left_out = read(tmp_path)
    assert left_out == []
    assert [(title(r.base), title(r.score)) for r in runs] == [
        ("IQL", "exchange"), ("TD3BC", "plain"), ("TD3BC", "Novelty?"),
    ]  # fmt: skip


def test_a_phase_of_unknown_length_can_be_where_a_run_ended(tmp_path):
    cut = write_run(tmp_path / "cut", finished=False)
    write_run(tmp_path / "good")
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "density", "step": 30, "time": 1.0}\n')
    (missing,) = read(tmp_path)[1]
    assert "the run did not finish (density step 30);" in missing.reason


def test_reading_loads_no_matplotlib():
    """Only drawing does: with Matplotlib blocked, everything else is imported."""
    code = """if True:
        import sys, stratdiff
        for name in [x for x in sys.modules if x.split(".")[0] == "matplotlib"]:
            del sys.modules[name]
        sys.modules["matplotlib"] = None
        from stratdiff.report import figures, page, results, tables
        try:
            from stratdiff.report import drawing
        except ImportError:
            print("blocked")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("blocked", 0), done.stderr
