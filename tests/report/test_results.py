"""Which runs are read, how they are named and grouped, and what a broken one is told."""

import json

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.errors import UserError
from stratdiff.report import figures, results

OTHER = "stratdiff/hopper-medium-v2"


def read(*paths):
    return results.read([str(p) for p in paths])


def names(runs):
    return [(r.task, r.base, r.variant) for r in runs]


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
    assert len(run.diagnostics["step"]) == results.POINTS
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
        for method in ("base", "random"):
            write_run(tmp_path / "task" / f"{base}-{method}", base=base, method=method)
    runs, _ = read(tmp_path)
    assert [(r.base, r.variant) for r in runs] == [
        (base, method) for base in ("iql", "calql") for method in ("base", "random")
    ]


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        (lambda d: (d / "summary.json").unlink(), "no summary.json: the run did not finish"),
        (lambda d: (d / "summary.json").write_text("{"), "summary.json could not be read as JSON"),
        (lambda d: (d / "summary.json").write_text("[1]"), "does not hold one JSON object"),
        (lambda d: (d / "summary.json").write_text("{}"), "KeyError: 'normalized'"),
        (lambda d: (d / "config.json").write_text("no"), "config.json could not be read as JSON"),
        (lambda d: (d / "config.json").write_text("{}"), "not of a run's form"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\x00"), "config.json could not be read"),
        (lambda d: (d / "metrics.jsonl").unlink(), "metrics.jsonl is not complete (nothing"),
        (lambda d: (d / "metrics.jsonl").write_bytes(b"\xff\xfe"), "metrics.jsonl could not"),
        (lambda d: (d / "metrics.jsonl").write_text('{"a": 3}\n'), "not of a run's form"),
        (lambda d: _repeat(d), "steps go back"),
        (lambda d: _cut(d), "metrics.jsonl is not complete (online step 5000 of 10000)"),
        (lambda d: _swap(d, '"score": [', '"score": ["x", '), "expected lists of 3 numbers"),
        (lambda d: _swap(d, '"step": 1000,', '"step": "1000",'), "steps must be whole numbers"),
        (lambda d: _swap(d, '"guided"', '"x"', "config.json"), "alignment 'x' is not known"),
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


def test_disjoint_seeds_of_equal_runs_are_pooled(tmp_path):
    write_run(tmp_path / "two" / "stratdiff", seeds=(2, 3))
    write_run(tmp_path / "one" / "stratdiff", seeds=(0, 1))
    (run,), _ = read(tmp_path)
    assert run.seeds == (0, 1, 2, 3) and run.variant == "stratdiff"
    parts = [read(tmp_path / x)[0][0] for x in ("one", "two")]
    assert run.after.tolist() == [v for p in parts for v in p.after]
    assert run.diagnostics["q_mean"].shape[1] == 4
    assert run.about["seconds"]["online"] == pytest.approx(2 * 131.5)
    # The same time twice, the same updates twice: the same speed.
    speed = parts[0].about["updates_per_second"]["online"]
    assert run.about["updates_per_second"]["online"] == pytest.approx(speed)


@pytest.mark.parametrize("change", [{"seeds": (1, 2)}, {"seeds": (7, 8), "rho": 0.3}])
def test_runs_that_are_not_one_get_the_names_above_them(tmp_path, change):
    write_run(tmp_path / "old" / "t" / "v", seeds=(0, 1))
    write_run(tmp_path / "new" / "t" / "v", **change)
    assert [r.variant for r in read(tmp_path)[0]] == ["new/v", "old/v"]


def test_names_that_train_gives(tmp_path):
    stem = "halfcheetah-medium-replay-iql-stratdiff-20261125-02383"
    write_run(tmp_path / f"{stem}0", seeds=(0,))
    assert [r.variant for r in read(tmp_path)[0]] == ["stratdiff"]
    write_run(tmp_path / f"{stem}1", seeds=(1,))
    assert [(r.variant, r.seeds) for r in read(tmp_path)[0]] == [("stratdiff", (0, 1))]
    write_run(tmp_path / f"{stem}2", seeds=(1,))
    assert len({r.variant for r in read(tmp_path)[0]}) == 3


def test_short_names_of_tasks(tmp_path):
    write_run(tmp_path / "a", task="stratdiff/hopper-medium-v2")
    write_run(tmp_path / "b", task="d4rl/hopper-medium-v2")
    write_run(tmp_path / "c", task="/somewhere/mine.hdf5")
    write_run(tmp_path / "d", task="/somewhere/mine.hdf5", env="Ant-v4")
    assert [r.task for r in read(tmp_path)[0]] == [
        "d4rl/hopper-medium-v2",
        "mine (Ant-v4)",
        "mine (HalfCheetah-v4)",
        "stratdiff/hopper-medium-v2",
    ]


def test_order(tmp_path):
    for base, method, name in [
        ("calql", "base", "z"), ("iql", "stratdiff", "rho 10"), ("iql", "stratdiff", "rho 9"),
        ("iql", "base", "plain"), ("iql", "random", "a"),
    ]:  # fmt: skip
        write_run(tmp_path / name, base=base, method=method)
    assert [r.variant for r in read(tmp_path)[0]] == ["plain", "a", "rho 9", "rho 10", "z"]


def test_differences_are_paired_by_seed(tmp_path):
    write_run(tmp_path / "plain", method="base", seeds=(0, 1, 2), start=10)
    write_run(tmp_path / "stratdiff", seeds=(2, 1, 5), start=30)
    base, run = read(tmp_path)[0]
    assert results.reference(run, [base, run]) is base
    assert results.reference(base, [base, run]) is None
    found = results.paired_difference(run, base)
    np.testing.assert_allclose(found, [run.after[0] - base.after[2], run.after[1] - base.after[1]])
    # They share their start, so nothing but the 20 points is between the seeds' starts.
    np.testing.assert_allclose(results.paired_difference(run, base, "before"), 20, atol=1e-3)


def test_the_reference_is_of_the_same_base_and_task(tmp_path):
    for base in ("iql", "calql"):
        write_run(tmp_path / base / "plain", base=base, method="base")
        write_run(tmp_path / base / "stratdiff", base=base)
    write_run(tmp_path / "utd" / "plain utd", method="base", utd=4)
    write_run(tmp_path / "utd" / "stratdiff utd", utd=4)
    write_run(tmp_path / "sac", base="sac", method="base")
    write_run(tmp_path / "alone", task=OTHER)
    runs, _ = read(tmp_path)
    found = {(r.base, r.variant): results.reference(r, runs) for r in runs}
    assert found["calql", "stratdiff"].base == "calql"
    assert found["iql", "stratdiff"].variant == "plain"
    assert found["iql", "stratdiff utd"].variant == "plain utd"
    assert found["sac", "sac"] is None and found["iql", "alone"] is None


def test_averages_are_over_tasks_that_all_variants_have(tmp_path):
    tasks = ["stratdiff/a", "stratdiff/b", "stratdiff/c"]
    for task in tasks:
        write_run(tmp_path / task / "plain", method="base", task=task)
        write_run(tmp_path / task / "stratdiff", task=task)
    for task in tasks[:2]:
        write_run(tmp_path / task / "random", method="random", task=task)
    write_run(tmp_path / "odd" / "plain", method="base", task="d", normalized=False)
    write_run(tmp_path / "a" / "once", task=tasks[0], rho=0.1)
    found = [(b.tasks, [*b.variants]) for b in results.blocks(read(tmp_path)[0])]
    assert found == [
        (("a", "b", "c"), ["plain", "stratdiff"]),
        (("a", "b"), ["plain", "random", "stratdiff"]),
    ]


def test_sweeps_are_found(tmp_path):
    for rho in (0.9, 0.1):
        write_run(tmp_path / f"rho {rho}", rho=rho)
    write_run(tmp_path / "stratdiff", rho=0.5)
    write_run(tmp_path / "w", guidance_scale=1.0)
    write_run(tmp_path / "m", behaviour={"support_actions": 16})
    write_run(tmp_path / "both", rho=0.2, guidance_scale=9.0)
    write_run(tmp_path / "random", method="random")
    write_run(tmp_path / "seldom", eval_interval=5000)
    write_run(tmp_path / "elsewhere", task=OTHER, rho=0.2)
    found = {s.option: [x for x, _ in s.points] for s in results.sweeps(read(tmp_path)[0])}
    assert found == {
        "rho": [0.1, 0.5, 0.5, 0.9],
        "guidance_scale": [1.0, 3.0, 3.0],
        "behaviour.support_actions": [8, 8, 16],
    }


def test_sweeps_of_two_scores_are_told_apart(tmp_path):
    for w in (0.0, 3.0):
        for alignment in ("guided", "support"):
            name = f"{alignment} {w}"
            write_run(tmp_path / name, alignment=alignment, guidance_scale=w)
    found = results.sweeps(read(tmp_path)[0])
    assert sorted(s.points[0][1].split for s in found) == ["guided", "support"]
    figure = figures.sensitivity(found, [None, None], {})
    assert {p.title.split("\n")[1] for p in figure.panels} == {
        f"IQL, {split}: {what} by guidance_scale"
        for split in ("guided", "support")
        for what in ("score", "regret")
    }


def test_notes_name_what_differs(tmp_path):
    write_run(tmp_path / "a", seeds=(0,))
    write_run(tmp_path / "b", seeds=(0,), online_steps=20_000, log_interval=1000)
    (note,) = results.notes(read(tmp_path)[0])
    assert note.startswith("IQL on halfcheetah-medium-replay: the runs differ in online steps")


def test_the_compact_file_gives_the_same_runs(tmp_path):
    write_run(tmp_path / "plain", method="base")
    write_run(tmp_path / "stratdiff", quantiles=False)
    write_run(tmp_path / "cut", finished=False)
    runs, left_out = read(tmp_path)
    text = results.to_json(runs, left_out)
    (tmp_path / "results.json").write_text(text)
    again, left_again = read(tmp_path / "results.json")
    assert results.to_json(again, left_again) == text
    assert names(again) == names(runs) and left_again == left_out
    assert text.count("\n") == 3 + 1 + 2 + 2  # a line holds a run


@pytest.mark.parametrize("spoil", ["seeds", "after", "config", "about", "evaluations"])
def test_a_spoilt_compact_file(tmp_path, spoil):
    write_run(tmp_path / "a")
    data = json.loads(results.to_json(*read(tmp_path)))
    holder = data["runs"][0] if spoil != "seeds" else data["runs"][0]["config"]
    holder[spoil] = "x"
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="no results file"):
        read(tmp_path / "results.json")
