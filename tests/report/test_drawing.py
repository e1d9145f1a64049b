"""Every kind of panel as SVG and PNG."""

import itertools
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


def inside(panel):
    return ElementTree.fromstring(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"{panel.content}</svg>"
    )


@pytest.mark.parametrize("kind", PARTS)
def test_each_kind_is_drawn(tmp_path, kind):
    panels = drawing.save(figure(PARTS[kind]), tmp_path)
    root = ElementTree.parse(tmp_path / "f.svg").getroot()
    said = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "task <b>" in said and "a key" in "".join(said)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    (panel,) = panels
    assert panel.title == "task <b>\nbase"
    said = "".join(e.text or "" for e in inside(panel).iter("{http://www.w3.org/2000/svg}text"))
    assert "task <b>" in said and "a key" not in said  # the page has a legend of its own


def test_a_panel_alone_is_no_wider_than_others(tmp_path):
    (panel,) = drawing.save(Figure("f", [Panel("one", [PARTS["curves"]])], (KEY,)), tmp_path)
    size = [0, 0, 72 * drawing.PANEL_INCHES, 72 * 2.3]
    assert [float(x) for x in panel.box.split()] == pytest.approx(size)
    assert panel.width == pytest.approx(size[2])
    (width,) = re.findall('<svg[^>]* width="([0-9.]+)pt"', (tmp_path / "f.svg").read_text())
    assert float(width) > size[2]


@pytest.mark.parametrize("kind", PARTS)
def test_what_a_panel_shows_is_in_its_box(tmp_path, kind):
    """Of a figure of two rows; the width of text is Matplotlib's, so that its start is tested."""
    many = Figure("f", [Panel(f"{i}\nb", [PARTS[kind]]) for i in range(6)], (KEY,), columns=3)
    panels = drawing.save(many, tmp_path)
    assert [p.title for p in panels] == [f"{i}\nb" for i in range(6)]
    boxes = [[float(x) for x in p.box.split()] for p in panels]
    assert len({(w, p.width) for (_, _, w, _), p in zip(boxes, panels, strict=True)}) == 1
    for panel, (x, y, width, height) in zip(panels, boxes, strict=True):
        found = [e for e in inside(panel).iter() if "text" in e.tag]
        starts = [re.search(r"translate\(([0-9.]+) ([0-9.]+)\)", e.get("transform")) for e in found]
        places = [(float(m[1]), float(m[2])) for m in starts if m]
        places += [(float(e.get("x")), float(e.get("y"))) for e in found if e.get("x")]
        assert len(places) >= 4
        assert all(x <= a <= x + width and y <= b <= y + height for a, b in places)
    for (ax, ay, width, height), (bx, by, *_) in itertools.combinations(boxes, 2):
        assert abs(bx - ax) > 0.9 * width or by - ay >= height - 0.02


def test_names_are_no_formulas(tmp_path):
    drawing.save(figure(PARTS["bars"]), tmp_path)
    assert "$one$" in (tmp_path / "f.svg").read_text()


def test_the_same_figure_has_the_same_bytes(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        drawing.save(figure(PARTS["fans"]), folder)
    for name in ("f.svg", "f.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_panels_of_a_page_share_no_ids(tmp_path):
    several = Figure("g", [Panel("one", [PARTS["bars"]]), Panel("two", [PARTS["bars"]])])
    panels = drawing.save(several, tmp_path)
    found = [re.findall(r' id="([^"]*)"', panel.content) for panel in panels]
    assert all(found) and not set(found[0]) & set(found[1])
    for own, panel in zip(found, panels, strict=True):
        used = re.findall(r'(?:url\(|href=")#([^")]+)', panel.content)
        assert set(used) == set(own) and len(set(own)) == len(own)
        assert "<style" not in panel.content and "<metadata" not in panel.content


def test_a_title_is_not_taken_for_a_reference(tmp_path):
    name = 'a url(#b) id="c" href="#d"'
    (panel,) = drawing.save(Figure("f", [Panel(name, [PARTS["curves"]])]), tmp_path)
    said = "".join(e.text or "" for e in inside(panel).iter("{http://www.w3.org/2000/svg}text"))
    assert name in said


def test_stacked_parts_share_their_steps(tmp_path):
    later = Curves([Line(LOOK, STEPS + 5000, RISING)], "return")
    (panel,) = drawing.save(figure(PARTS["curves"], later), tmp_path)
    assert panel.content.count("environment steps") == 1  # below the lower one
    assert ">score<" in panel.content and ">return<" in panel.content
