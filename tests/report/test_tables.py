"""What the tables say, and their CSV and Markdown forms."""

import json

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.report import comparison, results, tables
from stratdiff.report.statistics import Estimate
from stratdiff.report.tables import Table


def test_cells():
    table = Table(
        "t", ["a", "b", "c"],
        [["x|y", 1200, Estimate(1.26, 1.0, 2.0)], ["", 3, Estimate()]], [0, 0, 1],
    )  # fmt: skip
    assert table.markdown() == (
        "| a | b | c |\n| --- | ---: | ---: |\n| x\\|y | 1,200 | 1.3 [1.0, 2.0] |\n| — | 3 | — |\n"
    )
    assert table.csv() == "a,b,c,c low,c high\nx|y,1200,1.26,1,2\n,3,,,\n"


def test_a_new_phase_has_a_column_in_its_place(tmp_path):
    write_run(tmp_path / "plain", score="none")
    write_run(tmp_path / "longer", extra_phases=("density",))
    write_run(tmp_path / "guided")
    table = tables.cost(results.read([str(tmp_path)])[0])
    assert list(table.columns[6:]) == [
        f"{p} min" for p in ("base", "behaviour", "support", "energy", "density", "online", "total")
    ]
    rows = {row[2]: text[6:] for row, text in zip(table.rows, table.texts(), strict=True)}
    assert rows["plain"] == ["2.5", "—", "—", "—", "—", "2.2", "4.7"]
    assert rows["longer"] == ["2.5", "0.3", "0.3", "0.1", "1.0", "2.2", "6.4"]
    assert rows["guided"] == ["2.5", "0.3", "0.3", "0.1", "—", "2.2", "5.4"]


def test_controls_are_compared_on_every_task_then_over_all(tmp_path):
    for task in ("a", "b"):
        write_run(tmp_path / task / "base", task=task, score="none")
        write_run(tmp_path / task / "random", task=task, score="random")
    write_run(tmp_path / "a" / "guided", task="a")
    write_run(tmp_path / "c" / "base", task="c", score="none")
    runs = results.read([str(tmp_path)])[0]
    found = [(block, ()) for block in comparison.blocks(runs)]
    table = tables.controls(found, runs)
    rows = [(row[2], row[0]) for row in table.rows]
    # Nothing is lost where other tasks lack a variant; `c` has nothing to compare.
    assert rows == [
        *((name, "a") for name in ("base", "random", "guided")),
        *((name, "b") for name in ("base", "random")),
        *((name, "a, b") for name in ("base", "random")),
    ]
    over = {(row[2], row[0]): row[4] for row in table.rows}
    assert isinstance(over["guided", "a"], Estimate) and over["guided", "a"].has_interval
    # The lowest scores have the same rows; the difference from the random split, worked by hand.
    falls = tables.falls(found, runs)
    assert [(row[2], row[0]) for row in falls.rows] == rows
    online = {r.variant: r.evaluations["online"]["score"][1:] for r in runs if r.task == "a"}
    less = online["guided"].min(0) - online["random"].min(0)
    assert falls.rows[2][4][0] == pytest.approx(less.mean())


def test_trends_are_those_of_the_first_and_the_last_quarter(tmp_path):
    write_run(tmp_path / "plain", score="none")
    write_run(tmp_path / "guided", log_points=40)
    runs = results.read([str(tmp_path)])[0]
    (row,) = tables.trends(runs).rows  # plain fine-tuning splits nothing
    lines = (tmp_path / "guided" / "metrics.jsonl").read_text().splitlines()
    logged = [r for r in map(json.loads, lines) if "alignment_auc" in r]
    for key, cells in (("exchange_fraction", row[3:6]), ("alignment_auc", row[6:9])):
        scored = [r for r in logged if None not in r["alignment_auc"]]  # not the warm-up
        quarters = [
            np.mean([r[key] for r in scored if low < r["step"] <= high], axis=0)
            for low, high in ((0, 2500), (7500, 10_000))
        ]
        wanted = [*(q.mean() for q in quarters), (quarters[1] - quarters[0]).mean()]
        np.testing.assert_allclose([cell.value for cell in cells], wanted, rtol=1e-4)
        assert [cell.has_interval for cell in cells] == [False, False, True]


def test_scores_are_called_by_their_titles(tmp_path):
    for score in ("none", "support", "mine.scores:Novelty"):
        write_run(tmp_path / score.replace(":", " "), score=score, base="mine:TD3BC")
    table = tables.configurations(results.read([str(tmp_path)])[0])
    said = [(row[1], row[table.columns.index("score")]) for row in table.rows]
    assert said == [("TD3BC", "plain"), ("TD3BC", "Novelty"), ("TD3BC", "support")]
