"""Every kind of panel as SVG and PNG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from stratdiff.report import drawing
from stratdiff.report.panels import (
    Bars,
    Curves,
    Dots,
    Fans,
    Figure,
    Key,
    Line,
    Panel,
    Response,
    Style,
)
from stratdiff.report.statistics import Estimate

STEPS = np.array([0, 500, 1000])
RISING = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, np.nan]])
LOOK = Style("#0072B2", (0, (4, 1.5)), "s")
KEY = Key("a key", LOOK, "//")
PARTS = {
    "curves": Curves(
        [Line(LOOK, STEPS, RISING), Line(LOOK, STEPS[:0], RISING[:0])], "score", level=2.0
    ),
    "fans": Fans(
        STEPS, [(LOOK, [(STEPS + 1.0, STEPS + 90.0)], STEPS + 9.0)], STEPS + 5.0, "alignment"
    ),
    "dots": Dots([("one", LOOK, Estimate(0.4, 0.2, 0.6)), ("two", LOOK, Estimate(0.5))], "P", 0.5),
    "response": Response(
        [(0.1, LOOK, Estimate(3.0, 2.0, 4.0)), (9.0, LOOK, Estimate(5.0))], "x", "y"
    ),
    "bars": Bars([("$one$", [(KEY, 3.0), (KEY, 4.0)]), ("two", [(KEY, 5.0)])], "minutes"),
}


def figure(*parts, name="f", legend=(KEY,)):
    return Figure(name, [Panel("task <b>\nbase", parts), None], legend)


@pytest.mark.parametrize("kind", PARTS)
def test_each_kind_is_drawn(tmp_path, kind):
    drawing.save(figure(PARTS[kind]), tmp_path)
    root = ElementTree.parse(tmp_path / "f.svg").getroot()
    said = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "task <b>" in said and "a key" in "".join(said)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    ((title, box, content),) = drawing.panel_svgs(figure(PARTS[kind]))
    assert title == "task <b>\nbase"
    size = [0, 0, 72 * drawing.PANEL_INCHES, 72 * 2.3]
    assert [float(x) for x in box.split()] == pytest.approx(size)
    inside = ElementTree.fromstring(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"{content}</svg>"
    )
    said = "".join(e.text or "" for e in inside.iter("{http://www.w3.org/2000/svg}text"))
    assert "task <b>" in said and "a key" not in said  # the page has a legend of its own


def test_names_are_no_formulas(tmp_path):
    drawing.save(figure(PARTS["bars"]), tmp_path)
    assert "$one$" in (tmp_path / "f.svg").read_text()


def test_the_same_figure_has_the_same_bytes(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        drawing.save(figure(PARTS["fans"]), folder)
    for name in ("f.svg", "f.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_panels_of_a_page_share_no_ids():
    several = Figure("g", [Panel("one", [PARTS["curves"]]), Panel("two", [PARTS["curves"]])])
    found = [re.findall(r' id="([^"]*)"', content) for _, _, content in drawing.panel_svgs(several)]
    assert all(found) and not set(found[0]) & set(found[1])
    for _, _, content in drawing.panel_svgs(several):
        assert "<style" not in content and "<metadata" not in content


def test_stacked_parts_share_their_steps(tmp_path):
    later = Curves([Line(LOOK, STEPS + 5000, RISING)], "return")
    ((_, _, content),) = drawing.panel_svgs(figure(PARTS["curves"], later))
    assert content.count("environment steps") == 1  # below the lower one
    assert ">score<" in content and ">return<" in content
