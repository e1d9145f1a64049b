"""References, paired differences, blocks of tasks, sweeps and notes."""

import dataclasses

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.report import comparison, results
from stratdiff.report.statistics import bootstrap, iqm, mean

OTHER = "stratdiff/hopper-medium-v2"


def read(*paths):
    return results.read([str(p) for p in paths])


def test_differences_are_paired_by_seed(tmp_path):
    write_run(tmp_path / "plain", score="none", seeds=(0, 1, 2), start=10)
    write_run(tmp_path / "stratdiff", seeds=(2, 1, 5), start=30)
    base, run = read(tmp_path)[0]
    assert comparison.reference(run, [base, run]) is base
    assert comparison.reference(base, [base, run]) is None
    found = comparison.paired_difference(run, base)
    np.testing.assert_allclose(found, [run.after[0] - base.after[2], run.after[1] - base.after[1]])
    # They share their start, so nothing but the 20 points is between the seeds' starts.
    np.testing.assert_allclose(comparison.paired_difference(run, base, "before"), 20, atol=1e-3)


def test_the_reference_is_of_the_same_base_and_task(tmp_path):
    for base in ("iql", "calql"):
        write_run(tmp_path / base / "plain", base=base, score="none")
        write_run(tmp_path / base / "stratdiff", base=base)
    write_run(tmp_path / "utd" / "plain utd", score="none", utd=4)
    write_run(tmp_path / "utd" / "stratdiff utd", utd=4)
    write_run(tmp_path / "sac", base="sac", score="none")
    write_run(tmp_path / "alone", task=OTHER)
    runs, _ = read(tmp_path)
    found = {(r.base, r.variant): comparison.reference(r, runs) for r in runs}
    assert found["calql", "stratdiff"].base == "calql"
    assert found["iql", "stratdiff"].variant == "plain"
    assert found["iql", "stratdiff utd"].variant == "plain utd"
    assert found["sac", "sac"] is None and found["iql", "alone"] is None


def test_averages_are_over_tasks_that_all_variants_have(tmp_path):
    tasks = ["stratdiff/a", "stratdiff/b", "stratdiff/c"]
    for task in tasks:
        write_run(tmp_path / task / "plain", score="none", task=task)
        write_run(tmp_path / task / "stratdiff", task=task)
    for task in tasks[:2]:
        write_run(tmp_path / task / "random", score="random", task=task)
    write_run(tmp_path / "odd" / "plain", score="none", task="d", normalized=False)
    write_run(tmp_path / "a" / "once", task=tasks[0], rho=0.1)
    found = [(b.tasks, [*b.variants]) for b in comparison.blocks(read(tmp_path)[0])]
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
    write_run(tmp_path / "random", score="random")
    write_run(tmp_path / "seldom", eval_interval=5000)
    write_run(tmp_path / "elsewhere", task=OTHER, rho=0.2)
    found = {s.option: [x for x, _ in s.points] for s in comparison.sweeps(read(tmp_path)[0])}
    assert found == {
        "rho": [0.1, 0.5, 0.5, 0.9],
        "guidance_scale": [1.0, 3.0, 3.0],
        "behaviour.support_actions": [8, 8, 16],
    }


def test_notes_name_what_differs(tmp_path):
    write_run(tmp_path / "a", seeds=(0,))
    write_run(tmp_path / "b", seeds=(0,), online_steps=20_000, log_interval=1000)
    (note,) = comparison.notes(read(tmp_path)[0])
    assert note.startswith("IQL on halfcheetah-medium-replay: the runs differ in online steps")


def test_notes_name_seeds_without_a_score(tmp_path):
    write_run(tmp_path / "a", seeds=(3, 7))
    (run,), _ = read(tmp_path)
    assert comparison.notes([run]) == []
    (note,) = comparison.notes([dataclasses.replace(run, after=np.array([np.nan, 50.0]))])
    assert "no finite score before or after with seed 3; means leave" in note


def test_aggregates_are_the_statistics_of_the_runs(tmp_path):
    for i, task in enumerate(("a", "b")):
        same = {"task": task, "start": 30.0 + 20 * i}
        write_run(tmp_path / task / "plain", score="none", **same)
        write_run(tmp_path / task / "guided", gain=25, **same)
    runs, _ = read(tmp_path)
    (block,) = comparison.blocks(runs)
    plain, guided = comparison.aggregates(block, runs)
    own, others = ([r for r in runs if r.variant == name] for name in ("guided", "plain"))
    after = [r.after for r in own]
    assert (guided.iqm, guided.mean) == (bootstrap(iqm, after), bootstrap(mean, after))
    over = [a.after - b.after for a, b in zip(own, others, strict=True)]
    assert guided.over_base == bootstrap(mean, over)
    assert comparison.over_base(own[0], runs) == bootstrap(mean, over[:1])
    wins = [np.mean(a.after[:, None] > b.after) for a, b in zip(own, others, strict=True)]
    assert guided.improvement.value == pytest.approx(np.mean(wins))
    less = [a.regret - b.regret for a, b in zip(own, others, strict=True)]
    assert guided.regret_over_base == bootstrap(mean, less)
    assert guided.regret_over_base.high < 0
    assert not plain.over_base.has_value and not plain.improvement.has_value
    assert not plain.regret_over_base.has_value


def test_regret_over_controls(tmp_path):
    kinds = {
        "plain": {"score": "none"},
        "origin": {"score": "origin"},
        "no conservative row": {"score": "origin", "rho": 0.0},
        "flips": {"score": "origin", "origin_flips": 0.2},
        "guided": {"gain": 25},
    }
    for task in ("a", "b"):
        for name, options in kinds.items():
            write_run(tmp_path / task / name, task=task, **options)
    runs, _ = read(tmp_path)
    own = {name: [r for r in runs if r.variant == name] for name in kinds}
    found = {
        name: [comparison.over_control(own[name], runs, kind) for kind in comparison.CONTROLS]
        for name in kinds
    }
    for kind, name in (("all plain", "no conservative row"), ("flips", "flips")):
        pairs = zip(own["guided"], own[name], strict=True)
        less = [a.regret - b.regret for a, b in pairs]
        assert found["guided"][comparison.CONTROLS.index(kind)] == bootstrap(mean, less)
    for name, missing in (
        ("plain", {"base", "random"}),
        ("origin", {"origin", "random"}),
        ("no conservative row", {"all plain", "random"}),
        ("guided", {"random"}),
        ("flips", {"flips", "random"}),
    ):
        pairs = zip(comparison.CONTROLS, found[name], strict=True)
        assert {c for c, e in pairs if not e.has_value} == missing
    # A task without the control leaves nothing to average.
    alone = [r for r in runs if (r.task, r.variant) != ("b", "origin")]
    assert not comparison.over_control(own["guided"], alone, "origin").has_value


def test_of_several_controls_the_nearest_is_taken(tmp_path):
    for utd in (1, 4):
        write_run(tmp_path / f"random {utd}", score="random", utd=utd, gain=5 * utd)
        write_run(tmp_path / f"guided {utd}", utd=utd)
    runs = {r.variant: r for r in read(tmp_path)[0]}
    for utd in (1, 4):
        own, other = runs[f"guided {utd}"], runs[f"random {utd}"]
        found = comparison.over_control([own], [*runs.values()], "random")
        assert found == bootstrap(mean, [own.regret - other.regret])


def test_a_control_shares_pre_training_and_seeds(tmp_path):
    write_run(tmp_path / "guided", seeds=(5, 6))
    write_run(tmp_path / "plain 0", score="none", seeds=(0, 1))
    write_run(tmp_path / "plain 5", score="none", seeds=(6, 7), checkpoint_seconds=7.0)
    write_run(tmp_path / "plain both", score="none", seeds=(5, 6), utd=7)
    # As WSRL: another agent, and no conservative row.
    other = {"expectile": 0.6}
    write_run(tmp_path / "wsrl", score="origin", rho=0.0, seeds=(5, 6), iql=other)
    write_run(tmp_path / "longer", score="random", seeds=(5, 6), offline_steps=77)
    # The others are of a version that had no such option.
    write_run(tmp_path / "rounded", score="random", seeds=(5, 6), precision="bfloat16")
    runs = {r.variant: r for r in read(tmp_path)[0]}
    for kind, name in (("base", "plain 5"), ("all plain", None), ("random", None)):
        found = comparison.reference(runs["guided"], [*runs.values()], kind)
        assert (found and found.variant) == name
    assert comparison.reference(runs["plain both"], [*runs.values()], "all plain") is None


def test_no_aggregate_over_the_base_where_a_task_has_none(tmp_path):
    for task in ("a", "b"):
        write_run(tmp_path / task / "guided", task=task)
        write_run(tmp_path / task / "random", task=task, score="random")
    write_run(tmp_path / "a" / "plain", task="a", score="none")
    runs, _ = read(tmp_path)
    (block,) = [b for b in comparison.blocks(runs) if len(b.tasks) == 2]
    for a in comparison.aggregates(block, runs):
        assert a.mean.has_value and not a.over_base.has_value and not a.improvement.has_value
