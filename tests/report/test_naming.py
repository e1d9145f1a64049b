"""What runs are called, pooled and ordered, once all of them are known."""

import pytest
from synthetic import write_run

from stratdiff.report import results


def read(*paths):
    return results.read([str(p) for p in paths])


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
    for base, score, name in [
        ("calql", "none", "z"), ("iql", "guided", "rho 10"), ("iql", "support", "rho 9"),
        ("iql", "none", "plain"), ("iql", "random", "a"), ("mine:A", "none", "x"),
    ]:  # fmt: skip
        write_run(tmp_path / name, base=base, score=score)
    assert [r.variant for r in read(tmp_path)[0]] == ["plain", "a", "rho 9", "rho 10", "z", "x"]
