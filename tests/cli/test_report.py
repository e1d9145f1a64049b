"""`stratdiff report`: the table on the terminal, and the page that is made again."""

import contextlib
import sys
from pathlib import Path

import pytest
from commands import run

REPORT = Path(__file__).parents[1] / "report"
sys.path.insert(0, str(REPORT))
from synthetic import write_run

from stratdiff.cli import main
from stratdiff.cli import report as command
from stratdiff.errors import Interrupted
from stratdiff.files import LOCK, MARK, lock_directory, marking
from stratdiff.report import drawing


@pytest.fixture
def undrawn(monkeypatch):
    """A page without its figures, in less time."""
    monkeypatch.setattr(drawing, "save", lambda figure, folder: [])


def test_the_table_fits_into_80_columns(tmp_path, capsys, monkeypatch, undrawn):
    monkeypatch.setenv("COLUMNS", "80")
    long = (
        "support-rho=0.3-utd=1-iql.expectile=0.7-behaviour.support_actions=16-guidance_scale=auto"
    )
    folder = tmp_path / "halfcheetah-medium-replay"
    task = "stratdiff/halfcheetah-medium-replay"
    write_run(folder / "base", score="none", task=task)
    for i in range(9):
        write_run(folder / f"{long}-seed={i}", task=task, gain=10 * i)
    code, out, _ = run(capsys, "report", tmp_path, "--out", tmp_path / "page")
    assert code == 0 and max(map(len, out.splitlines()[:-1])) <= 80
    title, _, _, heads, *_ = out[out.index("halfcheetah-medium-replay, IQL") :].splitlines()
    assert title.startswith("halfcheetah-medium-replay, IQL; mean of the data ")
    # Nothing is cut off: neither the names nor the numbers.
    end = heads.index("before") - 2
    rows = out[out.index("───") :].splitlines()[1:-2]
    variants = "".join(row[:end].strip() for row in rows)
    assert variants.count(long) == 9 and all(f"{long}-seed={i}" in variants for i in range(9))
    assert sum("[" in row and row.rstrip().endswith("]") for row in rows) == 9


def test_each_task_and_base_has_its_table(tmp_path, capsys, undrawn):
    tasks = ("hopper-medium", "walker2d-medium")
    for task in tasks:
        for base in ("iql", "calql"):
            where = tmp_path / task / f"{base}-base"
            write_run(where, score="none", task=f"stratdiff/{task}", base=base)
    _, out, _ = run(capsys, "report", tmp_path, "--out", tmp_path / "page")
    titles = [line.split(";")[0].strip() for line in out.splitlines() if "mean of the data" in line]
    assert titles == [f"{task}, {base}" for base in ("IQL", "Cal-QL") for task in tasks]
    assert out.count("regret") == 4


class Stop(Exception):
    """A watch that did not end."""


def watch(monkeypatch, *events):
    """What happens between two looks, one after the other."""
    left = [*events]

    def sleep(seconds):
        if not left:
            raise Stop
        left.pop(0)()

    monkeypatch.setattr(command.time, "sleep", sleep)
    return left


def test_the_page_is_made_again_until_nothing_is_trained(tmp_path, capsys, monkeypatch, undrawn):
    out, page = tmp_path / "out", tmp_path / "page/index.html"
    said = []
    out.mkdir()
    experiment = contextlib.ExitStack()
    experiment.enter_context(marking(out / MARK))

    def first():
        said.append(page.exists())
        write_run(out / "point/a", score="none")

    def second():
        said.append(page.read_bytes())
        write_run(out / "point/b", finished=False)

    def third():
        said.append(page.read_bytes())
        write_run(out / "point/c")

    def end():
        said.append(page.read_bytes())
        experiment.close()

    left = watch(monkeypatch, first, second, third, end)
    code, text, err = run(capsys, "report", out, "--out", tmp_path / "page", "--watch")
    assert code == 0 and left == []
    none, one, same, two = said
    # A run that only begins makes no new page.
    assert none is False and one == same and same != two
    assert text.startswith("no run is finished yet", len("12:34:56  "))
    assert (
        text.count("1 finished") == 1 and text.count("2 finished") == 2
    )  # the last time at the end
    assert "point/b: no summary.json" in err and "over base" in text
    assert b"point/b" in page.read_bytes()


def test_a_watch_ends_where_no_run_ever_began(tmp_path, capsys, monkeypatch, undrawn):
    (tmp_path / "out").mkdir()
    experiment = contextlib.ExitStack()
    experiment.enter_context(marking(tmp_path / "out" / MARK))
    left = watch(monkeypatch, experiment.close)
    arguments = ("report", tmp_path / "out", "--out", tmp_path / "page", "--watch")
    code, _, err = run(capsys, *arguments)
    assert code == 2 and left == [] and "there is no finished run to report" in err


def test_a_run_that_is_trained_alone_is_watched_too(tmp_path, capsys, monkeypatch, undrawn):
    write_run(tmp_path / "a")
    lock = contextlib.ExitStack()
    lock.enter_context(lock_directory(tmp_path / "a"))
    assert (tmp_path / "a" / LOCK).exists()
    left = watch(monkeypatch, lock.close)
    arguments = ("report", tmp_path / "a", "--out", tmp_path / "page", "--watch")
    assert run(capsys, *arguments)[0] == 0 and left == []


@pytest.mark.parametrize(("number", "expected"), [(2, 0), (15, 143)])
def test_ctrl_c_is_how_a_watch_ends(tmp_path, capsys, monkeypatch, undrawn, number, expected):
    write_run(tmp_path / "out/a")

    def interrupt():
        raise Interrupted(number)

    with marking(tmp_path / "out" / MARK):
        watch(monkeypatch, interrupt)
        arguments = ["report", str(tmp_path / "out"), "--out", str(tmp_path / "page"), "--watch"]
        assert main(arguments) == expected


def test_a_watch_refuses_what_is_no_report_at_once(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/text").write_text("")
    with marking(tmp_path / "out" / MARK):
        code, _, err = run(
            capsys, "report", tmp_path / "out", "--out", tmp_path / "mine", "--watch"
        )
    assert code == 2 and "holds something that is no earlier report" in err
