"""Sizes and line breaks of panels."""

from stratdiff.report.panels import Curves, Figure, Panel, rows_height, wrapped


def test_wrapped():
    assert wrapped("one two three", 7) == "one two\nthree"
    assert wrapped("a\n\nb", 7) == "a\n\nb"


def test_rows_take_their_lines():
    short = rows_height(["a", "b"], 1.0)
    assert short == 1.0 + 0.24 * 2
    assert rows_height(["a", "words that take more than one line"], 1.0) == short + 0.24 / 2


def test_a_figure_stacks_what_its_panels_do():
    part = Curves([], "y")
    assert Figure("f", [None, Panel("t", [part, part])]).stack == 2
