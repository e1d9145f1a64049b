"""What each figure shows of the runs."""

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.report import comparison, figures, results


def read(*paths):
    return results.read([str(p) for p in paths])[0]


def test_sweeps_of_two_scores_are_told_apart(tmp_path):
    for w in (0.0, 3.0):
        for score in ("guided", "support"):
            write_run(tmp_path / f"{score} {w}", score=score, guidance_scale=w)
    runs = read(tmp_path)
    found = comparison.sweeps(runs)
    assert sorted(s.points[0][1].score for s in found) == ["guided", "support"]
    figure = figures.sensitivity(runs, figures.styles(runs))
    assert {p.title.split("\n")[1] for p in figure.panels} == {
        f"IQL, {score}: {what} by guidance_scale"
        for score in ("guided", "support")
        for what in ("score", "regret")
    }
    assert figure.legend == []  # without a plain base there is no line


def made(runs):
    found = [(block, comparison.aggregates(block, runs)) for block in comparison.blocks(runs)]
    return {figure.name: figure for figure in figures.figures(runs, found)}


def test_what_is_drawn_of_a_comparison(tmp_path):
    for i, task in enumerate(("a", "b")):
        same = {"task": task, "start": 30.0 + 20 * i}
        write_run(tmp_path / task / "plain", score="none", **same)
        write_run(tmp_path / task / "random", score="random", **same)
        write_run(tmp_path / task / "guided", **same)
    runs = read(tmp_path)
    each = made(runs)
    assert [*each] == [n for n in figures.NAMES if n != "sensitivity"]  # nothing was varied
    main = each["main"].panels[0]
    assert main.title == "a\nIQL"
    (curves,) = main.parts
    assert [line.style for line in curves.lines] == [
        figures.styles(runs)[r.variant] for r in runs[:3]
    ]
    np.testing.assert_array_equal(curves.lines[1].values, runs[1].evaluations["online"]["score"])
    assert curves.level == pytest.approx(30 - 9.3)  # the data's mean episode
    # All start from one pre-training, whose curve is drawn once.
    assert [len(p.parts[0].lines) for p in each["offline"].panels] == [1, 1]
    # The plain base has no scores, and those of a random split say nothing of alignment.
    assert [len(p.parts[0].lines) for p in each["auc"].panels] == [2, 2]
    assert [p.title for p in each["alignment"].panels] == ["a\nIQL · guided", "b\nIQL · guided"]
    q, returns = each["q_values"].panels[0].parts
    assert (q.ylabel, returns.ylabel, each["q_values"].stack) == ("mean Q", "return", 2)
    over = each["ablation"].panels
    assert [p.title for p in over] == ["2 tasks\nIQL", "a\nIQL", "b\nIQL"]
    assert [name for name, _, _ in over[0].parts[0].rows] == ["random", "guided"]
    assert each["ablation"].remark == "Tasks: IQL: a, b."


def test_a_base_algorithm_starts_a_row(tmp_path):
    for base in ("iql", "calql"):
        write_run(tmp_path / base / "plain", base=base, score="none", seeds=(1,))
        write_run(tmp_path / base / "guided", base=base, seeds=(1,))
    write_run(tmp_path / "sac", base="sac", score="none", seeds=(1,))
    figure = made(read(tmp_path))["ablation"]
    titles = [panel and panel.title.split("\n")[1] for panel in figure.panels]
    assert titles == ["IQL", None, None, "Cal-QL"]
    assert figure.remark.strip() == "One seed: no interval."


def test_plain_bases_are_gray(tmp_path):
    write_run(tmp_path / "a", score="none")
    write_run(tmp_path / "b")
    looks = figures.styles(read(tmp_path))
    red, green, blue = (int(looks["a"].color[i : i + 2], 16) for i in (1, 3, 5))
    assert red == green == blue
    assert looks["b"].color != looks["a"].color and looks["b"].marker != looks["a"].marker


def test_a_sweep_s_variants_are_left_to_its_own_figure(tmp_path):
    for task in ("a", "b"):
        write_run(tmp_path / task / "plain", score="none", task=task)
        write_run(tmp_path / task / "guided", task=task)
    write_run(tmp_path / "a" / "rho 0.1", task="a", rho=0.1)
    drawn, said = figures.choose(read(tmp_path))
    assert {r.variant for r in drawn} == {"plain", "guided"}
    assert said == "Not drawn, to keep it readable: rho 0.1 (IQL)."


def test_controls_are_drawn_and_of_many_variants_those_of_no_sweep(tmp_path):
    for task in ("a", "b"):
        write_run(tmp_path / task / "plain", score="none", task=task)
        write_run(tmp_path / task / "rho0", score="origin", rho=0.0, task=task)
    write_run(tmp_path / "a" / "origin", score="origin", task="a")
    for i in range(1, 7):
        write_run(
            tmp_path / "a" / f"support {i}", score="support", guidance_scale=float(i), task="a"
        )
    write_run(tmp_path / "a" / "w", score="guided", guidance_scale=3.0, task="a")
    drawn, said = figures.choose(read(tmp_path))
    kept = {r.variant for r in drawn}
    assert len(kept) == figures.MOST_CURVES and {"plain", "rho0", "origin", "w"} <= kept
    assert said == "Not drawn, to keep it readable: support 5 (IQL), support 6 (IQL)."


def test_a_task_is_a_column_also_where_a_base_lacks_it(tmp_path):
    for base, tasks in (("iql", "ab"), ("calql", "abc")):
        for task in tasks:
            write_run(tmp_path / base / task, base=base, task=task, score="none")
    main = made(read(tmp_path))["main"]
    assert main.columns == 3
    assert [panel and panel.title for panel in main.panels] == [
        "a\nIQL", "b\nIQL", None, "a\nCal-QL", "b\nCal-QL", "c\nCal-QL",
    ]  # fmt: skip


def test_wall_time_has_every_phase_in_its_order(tmp_path):
    write_run(tmp_path / "plain", score="none")
    write_run(tmp_path / "guided", extra_phases=("density", "warm start"))
    figure = made(read(tmp_path))["cost"]
    assert [key.label for key in figure.legend] == [
        "offline base", "behaviour model", "support actions", "energy model", "density",
        "warm start", "online",
    ]  # fmt: skip
    assert len({(k.style.color, k.hatch) for k in figure.legend}) == 7
    ((plain, guided),) = (panel.parts[0].rows for panel in figure.panels)
    assert [round(60 * minutes, 1) for _, minutes in plain[1]] == [150.9, 0, 0, 0, 0, 0, 131.5]
    assert [round(60 * minutes, 1) for _, minutes in guided[1]] == [
        150.9, 17.0, 19.3, 7.6, 60.0, 60.0, 131.5,
    ]  # fmt: skip
