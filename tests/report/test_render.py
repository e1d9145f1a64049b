"""What the page says; its pictures and links are tested with the files that it stands with."""

import dataclasses
import re

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.report import comparison, figures, results, tables
from stratdiff.report.drawing import Shown
from stratdiff.report.page import about, render
from stratdiff.report.runs import LeftOut


def read(*paths):
    return results.read([str(p) for p in paths])


def page(runs, left_out=()):
    found = [(block, comparison.aggregates(block, runs)) for block in comparison.blocks(runs)]
    each = [
        t
        for t in (tables.scores(runs), tables.aggregate(found), tables.configurations(runs))
        if t.rows
    ]
    drawn = figures.figures(runs, found)
    panels = {figure.name: [Shown("<t>", 1.0, "0 0 1 1", "<g/>")] for figure in drawn}
    text = render(runs, left_out, found, each, drawn, panels)
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([30, 41, 52], "the interval leaves 0 out."),
        ([12, 17, 31], "the interval holds 0."),
        ([30], "no interval with one seed."),
    ],
)
def test_the_main_result_in_a_sentence(tmp_path, after, verdict):
    seeds = range(len(after))
    write_run(tmp_path / "plain", score="none", seeds=seeds)
    write_run(tmp_path / "guided", seeds=seeds)
    ends = {"plain": [10.0, 20.0, 30.0][: len(after)], "guided": list(map(float, after))}
    runs = [dataclasses.replace(r, after=np.array(ends[r.variant])) for r in read(tmp_path)[0]]
    (block,) = comparison.blocks(runs)
    (a,) = [a for a in comparison.aggregates(block, runs) if a.variant == "guided"]
    over, better = tables.shown(a.over_base, 1), tables.shown(a.improvement, 2)
    said = (
        f"<li>guided ends {over} points over plain IQL on halfcheetah-medium-replay: {verdict} "
        f"Probability of improvement: {better}."
    )
    less = tables.shown(a.regret_over_base, 3)
    assert f"{said} Regret over plain: {less}; below 0 is better. </li>" in page(runs)
    # Scores that are not normalised have no regret.
    unknown = [dataclasses.replace(r, normalized=False) for r in runs]
    assert f"{said} </li>" in page(unknown)


def test_without_a_plain_base_there_is_no_main_result(tmp_path):
    write_run(tmp_path / "guided")
    write_run(tmp_path / "random", score="random")
    said = page(read(tmp_path)[0])
    assert "<li>No variant can be compared with its plain base over tasks here.</li>" in said
    assert 'id="improvement"' not in said


def test_contents_are_the_sections_that_are_there(tmp_path):
    write_run(tmp_path / "plain", score="none")
    said = page(read(tmp_path)[0])
    sections = re.findall(r'<section id="([^"]+)"', said)
    assert re.findall(r'<li><a href="#([^"]+)">', said) == sections
    assert "ablations" not in sections and "left-out" not in sections
    assert {"result", "pretraining", "watching", "costs", "details"} <= set(sections)


def test_what_was_left_out_is_counted_and_listed(tmp_path):
    write_run(tmp_path / "plain", score="none")
    runs, _ = read(tmp_path)
    one = page(runs, [LeftOut("<a>", "it is & was broken")])
    assert "1 directory was left out" in one and "<code>&lt;a&gt;</code>: it is &amp; was" in one
    assert "2 directories were left out" in page(runs, [LeftOut("a", "b"), LeftOut("c", "d")])


def test_legends_show_dashes_markers_and_areas(tmp_path):
    write_run(tmp_path / "plain", score="none")
    write_run(tmp_path / "guided")
    said = page(read(tmp_path)[0])
    assert 'stroke-dasharray="8 3.0"/><rect x="9.6"' in said  # plain: dashes, squares
    assert 'stroke-dasharray=""/><circle' in said  # a line without gaps, circles
    assert 'stroke-dasharray="2 3"/></svg> mean episode of the data' in said
    assert 'fill="#E69F00"/><path d="M5 12L11 2M12 12L18 2"' in said  # hatched
    assert 'aria-label="Online learning curves: &lt;t&gt;"' in said


def test_about(tmp_path):
    write_run(tmp_path / "plain", score="none", seeds=(0,))
    write_run(tmp_path / "guided")
    lines = about(read(tmp_path)[0])
    assert lines["IQL variants"] == "plain, guided"
    assert lines["Seeds"] == "1 to 3 a variant; 4 in 2 runs"
    assert lines["Environment steps"] == "10,000"
    assert lines["Versions"] == "python 3.11.7; stratdiff 0.1.0; jax 0.10.2"
