"""curves.png: drawn at the end from metrics.jsonl, whatever a run has measured."""

import json

import numpy as np
import pytest

from stratdiff.sinks import curves
from stratdiff.sinks.base import Sink
from stratdiff.sinks.curves import Curves, plot_curves

SUMMARY = {"normalized": True, "dataset": {"mean_score": 20.0}}


def records(seeds=2, score=True, split=True):
    """Offline and online log points."""
    out = []
    for phase, steps in (("base", (20, 40)), ("behaviour", (20,)), ("online", (0, 20, 40))):
        for step in steps:
            record = {"phase": phase, "step": step, "time": 1.0}
            if score and phase != "behaviour":
                record["score"] = [10.0 + step + seed for seed in range(seeds)]
            if split and phase == "online" and step:
                record["exchange_fraction"] = [0.25, None][:seeds]
            out.append(record)
    return out


def drawn(monkeypatch, found, summary, path):
    """What is in the three panels: the lines' points by panel."""
    from matplotlib.figure import Figure

    panels, save = [], Figure.savefig

    def saved(figure, *args, **options):
        for axis in figure.axes:
            panels.append([line.get_xydata() for line in axis.lines])
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    plot_curves(found, summary, path)
    monkeypatch.undo()
    return panels


def test_the_callers_backend_stays(monkeypatch, tmp_path):
    """Otherwise a notebook would show no figure any more."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    plot_curves(records(), SUMMARY, tmp_path / "a.png")
    assert matplotlib.rcParams["backend"] == "svg"


def test_scores_of_both_phases_and_the_exchange_fraction(monkeypatch, tmp_path):
    offline, online, exchange = drawn(monkeypatch, records(), SUMMARY, tmp_path / "a.png")
    np.testing.assert_array_equal(offline[0], [[20, 30], [40, 50]])  # the first seed
    np.testing.assert_array_equal(offline[2], [[20, 30.5], [40, 50.5]])  # the mean
    assert [10, 31] in online[1].tolist() or [20, 31] in online[1].tolist()
    assert online[2][:, 0].tolist() == [0, 20, 40]
    assert exchange[0][:, 1].tolist() == [0.25, 0.25]
    assert np.isnan(exchange[1][:, 1]).all()  # no value of that seed


@pytest.mark.parametrize(
    ("found", "summary"),
    [
        (records(1), SUMMARY),
        (records(score=False), SUMMARY),
        (records(split=False), SUMMARY),
        (
            records(1, score=False, split=False),
            {"normalized": False, "dataset": {"mean_score": None}},
        ),
        ([], SUMMARY),
    ],
)
def test_what_was_not_measured_is_not_drawn(found, summary, tmp_path):
    plot_curves(found, summary, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_sink_draws_when_the_run_is_finished(tmp_path, monkeypatch):
    sink = Curves(tmp_path, {})
    assert isinstance(sink, Sink)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records()))
    asked = []
    monkeypatch.setattr(curves, "plot_curves", lambda *args: asked.append(args))
    sink.rewind(0, 0)
    sink.close()
    assert asked == []
    sink.finish(SUMMARY)
    assert asked == [(records(), SUMMARY, tmp_path / "curves.png")]


@pytest.mark.parametrize("every", [True, False])
def test_scores_that_are_null_leave_a_gap(monkeypatch, tmp_path, every):
    found = records(seeds=1)
    for record in found:
        if "score" in record and (every or record["step"] == 20):
            record["score"] = [None]
    _, online, _ = drawn(monkeypatch, found, SUMMARY, tmp_path / "a.png")
    assert np.isnan(online[0][1, 1]) and np.isnan(online[0][0, 1]) == every
