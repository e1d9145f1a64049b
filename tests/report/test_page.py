"""The whole report: its files, what they say, and how the page behaves in a browser."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from synthetic import CONFIG, write_run

from stratdiff.cli import main
from stratdiff.report import drawing, figures, results, tables
from stratdiff.report.page import report

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
TASKS = ("stratdiff/hopper-medium-v2", "stratdiff/walker2d-medium")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tasks, four variants, a sweep of two points, SAC alone, one run that was cut off."""
    root = tmp_path_factory.mktemp("runs")
    for i, task in enumerate(TASKS):
        same = {"task": task, "start": 30.0 + 20 * i}
        write_run(root / task / "plain", score="none", gain=5, **same)
        write_run(root / task / "random", score="random", gain=5, **same)
        write_run(root / task / "stratdiff", gain=25, **same)
    write_run(root / TASKS[0] / "ρ = 0.1", task=TASKS[0], rho=0.1, start=30, quantiles=False)
    write_run(root / "sac", base="sac", score="none", task=TASKS[0])
    write_run(root / TASKS[0] / "cut", task=TASKS[0], finished=False)
    return root


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "report"
    report([str(runs)], str(out))
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """A page without its figures, whose files are empty, in less time."""

    def save(figure, folder):
        (folder / f"{figure.name}.svg").touch()
        return []

    monkeypatch.setattr(drawing, "save", save)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_figure_and_table_is_there(made):
    found = set(files(made))
    for name in figures.NAMES:
        assert {f"figures/{name}.svg", f"figures/{name}.png"} <= found
    for name in tables.NAMES:
        assert {f"tables/{name}.csv", f"tables/{name}.md"} <= found
    assert {"index.html", "results.json"} <= found
    assert len(found) == 2 + 2 * (len(figures.NAMES) + len(tables.NAMES))
    assert not [p for p in made.parent.iterdir() if p != made]


@pytest.mark.slow
def test_the_compact_file_gives_the_same_report(made, tmp_path):
    report([str(made / "results.json")], str(tmp_path / "again"))
    first, again = files(made), files(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_the_table_of_scores_is_that_of_the_runs(runs, made):
    with (made / "tables" / "scores.csv").open(newline="") as file:
        rows = {(r["task"], r["variant"]): r for r in csv.DictReader(file)}
    ends = {}
    for variant in ("plain", "stratdiff"):
        summary = json.loads((runs / TASKS[0] / variant / "summary.json").read_text())
        ends[variant] = np.array(summary["score"]["after"]["per_seed"])
    row = rows["hopper-medium-v2", "stratdiff"]
    assert float(row["after"]) == pytest.approx(ends["stratdiff"].mean(), rel=1e-5)
    difference = (ends["stratdiff"] - ends["plain"]).mean()
    assert float(row["over base"]) == pytest.approx(difference, rel=1e-4)
    assert float(row["over base low"]) < difference < float(row["over base high"])
    assert rows["hopper-medium-v2", "plain"]["over base"] == ""
    assert rows["hopper-medium-v2", "sac"]["over base"] == ""
    with (made / "tables" / "aggregate.csv").open(newline="") as file:
        aggregate = {(r["base"], r["variant"]): r for r in csv.DictReader(file)}
    assert aggregate.keys() == {("IQL", v) for v in ("plain", "random", "stratdiff")}
    both = [
        float(rows[t, "stratdiff"]["over base"]) for t in ("hopper-medium-v2", "walker2d-medium")
    ]
    assert float(aggregate["IQL", "stratdiff"]["over base"]) == pytest.approx(
        np.mean(both), rel=1e-4
    )
    assert aggregate["IQL", "stratdiff"]["tasks"] == "hopper-medium-v2, walker2d-medium"
    less = float(aggregate["IQL", "stratdiff"]["regret over base"])
    assert f"Regret over plain: {less:.3f} [" in (made / "index.html").read_text()


def test_the_page_names_what_was_left_out(made):
    text = (made / "index.html").read_text()
    assert 'id="left-out"' in text
    assert "no summary.json: the run did not finish (online step 3000 of 10000)" in text


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.links.append(value)


def test_the_page_stands_alone(made):
    text = (made / "index.html").read_text()
    found = _Page(text)
    assert len(set(found.ids)) == len(found.ids)
    for link in found.links:
        assert link.startswith(("#", "figures/", "tables/")), link
        assert link[1:] in found.ids if link.startswith("#") else (made / link).is_file()
    used = re.findall(r"url\(#([^)]+)\)", text)
    assert used and set(used) <= set(found.ids)
    assert not re.search(r"@import|<script|url\((?!#)", text)
    drawn = [a for tag, a in found.tags if tag == "svg" and "aria-hidden" not in a]
    assert drawn and all(a["role"] == "img" and a["aria-label"] for a in drawn)
    assert {"lang": "en"} in [a for tag, a in found.tags if tag == "html"]
    assert sum(tag == "h1" for tag, _ in found.tags) == 1


def test_figures_are_whole(made):
    for name in figures.NAMES:
        ElementTree.parse(made / "figures" / f"{name}.svg")
        assert (made / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not os.access(CHROMIUM, os.X_OK), reason="no Chromium here")
def test_on_a_phone(made, tmp_path):
    """In a frame of 390 px, as headless Chromium's own window is never that narrow."""
    (tmp_path / "frame.html").write_text(
        f"""<!doctype html><body><iframe src="{(made / "index.html").as_uri()}"
        style="width:390px;height:800px;border:0"></iframe><script>
        onload = () => {{
          const page = document.querySelector("iframe").contentDocument.documentElement
          const out = [...page.querySelectorAll("figure, .panels svg, p, li")]
            .filter(e => e.getBoundingClientRect().right > 390)
          document.body.dataset.found = [page.scrollWidth - page.clientWidth,
            out.length, page.querySelectorAll(".panels svg").length].join(" ")
        }}</script>"""
    )
    command = [
        "nice", CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'user'}",
        "--window-size=800,900", "--dump-dom", (tmp_path / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-found="(\d+) (\d+) (\d+)"', done.stdout)
    assert found is not None, done.stderr
    overflow, beyond, panels = map(int, found.groups())
    assert (overflow, beyond) == (0, 0) and panels >= 20


def test_a_later_report_replaces_an_earlier_one(tmp_path, undrawn):
    write_run(tmp_path / "runs" / "plain", score="none", log_points=5)
    write_run(tmp_path / "runs" / "stratdiff", log_points=5)
    out = tmp_path / "out"
    report([str(tmp_path / "runs")], str(out))
    (out / "figures" / "mine.svg").write_text("mine")
    assert (out / "figures" / "alignment.svg").exists()
    report([str(tmp_path / "runs" / "plain")], str(out))
    assert not (out / "figures" / "alignment.svg").exists()
    assert (out / "figures" / "mine.svg").read_text() == "mine"
    assert "stratdiff" not in (out / "tables" / "scores.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]


def test_one_seed_has_no_interval(tmp_path, capsys):
    write_run(tmp_path / "runs" / "plain", score="none", seeds=(4,), log_points=5)
    write_run(tmp_path / "runs" / "stratdiff", seeds=(4,), log_points=5, normalized=False)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "[" not in (tmp_path / "out" / "tables" / "scores.md").read_text()
    text = (tmp_path / "out" / "index.html").read_text()
    assert "One seed: no interval is drawn." in text
    assert "no interval with one seed" in text
    assert str(tmp_path / "out" / "index.html") in capsys.readouterr().out.replace("\n", "")


def test_names_cannot_break_the_page(tmp_path):
    evil = '<img src="http:&x" onerror=alert(1)>|$\\frac{a}$'
    name = evil.replace("/", "")
    write_run(tmp_path / name, log_points=5)
    write_run(tmp_path / "_hidden", log_points=5, rho=0.2)
    write_run(tmp_path / "名前\x07", log_points=5, rho=0.7)
    report([str(tmp_path)], str(tmp_path / "out"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "<img" not in text and escape(name) in text
    assert "名前?" in text and "_hidden" in text and "\x07" not in text
    ElementTree.parse(tmp_path / "out" / "figures" / "main.svg")
    table = (tmp_path / "out" / "tables" / "scores.md").read_text().splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "run")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(drawing, "save", full)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 1
    said = capsys.readouterr().err
    assert "page' could not be written (No space left on device)" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_numbers_that_are_missing(tmp_path):
    """Every metric is null, at every point."""
    directory = write_run(tmp_path / "a", log_points=5)
    write_run(tmp_path / "b", log_points=5, rho=0.2)
    for name in ("metrics.jsonl", "summary.json"):
        text = (directory / name).read_text()
        lists = re.sub(r"\[[\d., \nenul-]*\]", "[null, null, null]", text)
        lists = lists.replace('"seeds": [null, null, null]', '"seeds": [0, 1, 2]')
        (directory / name).write_text(lists)
    runs, left_out = report([str(tmp_path)], str(tmp_path / "out"))
    assert len(runs) == 2 and not left_out
    rows = (tmp_path / "out" / "tables" / "scores.md").read_text()
    assert "| — | — | — | — | — |" in rows


def test_a_run_without_an_online_phase(tmp_path, undrawn):
    directory = write_run(tmp_path / "a", log_points=5)
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"online"' not in line]
    (directory / "metrics.jsonl").write_text("".join(kept))
    text = (directory / "config.json").read_text()
    text = text.replace('"online_steps": 10000', '"online_steps": 0')
    (directory / "config.json").write_text(text)
    runs, _ = report([str(tmp_path / "a")], str(tmp_path / "out"))
    assert np.isnan(runs[0].regret).all()
    assert not (tmp_path / "out" / "figures" / "main.svg").exists()
    assert (tmp_path / "out" / "figures" / "offline.svg").exists()


@pytest.mark.slow
def test_a_run_of_the_program(tiny, tmp_path):
    """What `train` really leaves is what is read."""
    from stratdiff import train

    config = tiny(score="random", offline_steps=20, online_steps=40, eval_episodes=1)
    result = train(config, tmp_path / "run")
    (run,), left_out = results.read([str(tmp_path / "run")])
    assert left_out == []
    assert run.after.tolist() == result.scores["after"]
    assert {"exchange_fraction", "alignment_auc", "alignment_threshold", "q_mean"} <= set(
        run.diagnostics
    )
    assert run.about["dataset"]["fingerprint"] and run.about["updates_per_second"]["online"] > 0
    # The runs that the other tests make up have the form of a real one.
    made_up = write_run(tmp_path / "made up")
    of_scores = {"rho", "guidance_scale", "inverse_temperature", "behaviour", "energy"}
    of_scores |= {"behaviour_steps", "energy_steps"}
    assert CONFIG.keys() - of_scores <= run.config.keys()
    summary = json.loads((made_up / "summary.json").read_text())
    assert summary.keys() == result.summary.keys()
    assert summary["dataset"].keys() == result.summary["dataset"].keys()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "DIRECTORIES|directory of one run"),
        (["nowhere"], "'nowhere' does not exist"),
        (["empty"], "no run is in it"),
        (["cut"], "did not finish"),
        (["good", "--out", "file"], "--out 'file' is a file"),
        (["good", "--out", "full"], "--out 'full' holds something that is no earlier report"),
        (["good", "--out", "good"], "--out 'good' holds something"),
        (["good", "--out", "x" * 300], "cannot be looked at .File name too long"),
        (["good", "--out", "file/below"], "cannot be made"),
    ],
)
def test_mistakes_write_nothing(tmp_path, monkeypatch, capsys, args, expected):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good", log_points=5)
    write_run(tmp_path / "cut", finished=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.html").write_text("someone's own page")
    (tmp_path / "file").write_text("")
    before = files(tmp_path)
    code = main(["report", *args])
    err = capsys.readouterr().err
    assert code == 2
    assert re.search(expected, err) and "Traceback" not in err
    assert files(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 5


def test_what_was_left_out_is_said(tmp_path, capsys, undrawn):
    write_run(tmp_path / "a", log_points=5)
    cut = write_run(tmp_path / "cut", finished=False)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert f"left out: {cut}: no summary.json" in err
    assert "over base" in out
