"""The processes of an experiment's runs: what they inherit, tell, share and how they end."""

import json
import os
import signal
import subprocess
import sys

import pytest

from stratdiff import cells, registry
from stratdiff.cells import side_by_side
from stratdiff.experiments import read_spec

SPEC = """
preset = "demo"
[tasks.one]
dataset = "stratdiff/hopper-medium"
[tasks.two]
dataset = "stratdiff/walker2d-medium"
[variants.base]
score = "none"
[variants.guided]
[variants.guided-w0]
guidance_scale = 0.0
[variants.expectile]
iql.expectile = 0.8
"""


def all_cells(folder):
    (folder / "a.toml").write_text(SPEC)
    return {cell.name: cell for cell in read_spec(folder / "a.toml")}


def cell_of(folder):
    return all_cells(folder)["one/base"]


@pytest.fixture
def children(monkeypatch):
    """Sets the program that stands for the process of a cell."""
    real = subprocess.Popen

    def use(program):
        def start(command, **options):
            return real([sys.executable, "-c", program], **options)

        monkeypatch.setattr(cells.subprocess, "Popen", start)

    return use


def test_the_processes_of_cells_inherit_trust(tmp_path, monkeypatch, untrusting):
    """Also those of a cluster, which another process starts."""
    job, cell = tmp_path / "job", cell_of(tmp_path)
    keep = f"import sys; open({str(job)!r}, 'w').write(sys.stdin.readline())"
    real = subprocess.Popen

    def start(command, **options):
        return real([sys.executable, "-c", keep], **options)

    monkeypatch.setattr(cells.subprocess, "Popen", start)
    registry.trust("own_parts:OwnScore")
    trusted = registry.trusted()
    monkeypatch.setattr(registry, "_trusted", set())
    assert cells._one(cell, tmp_path, trusted, {}) == ""
    assert json.loads(job.read_text())[3] == ["own_parts:OwnScore"]


ASK = """
import json, os, sys, time
name, *_ = json.loads(sys.stdin.readline())
def tell(*event): print(json.dumps(event), flush=True)
"""


def test_what_a_process_tells_arrives_and_a_failure_is_its_own(tmp_path, children):
    wanted = [all_cells(tmp_path)[name] for name in ("one/base", "one/guided", "two/base")]
    children(
        ASK
        + """
tell("begin", "base", 10, 0)
if name == "one/guided": tell("failed", "the reason"); sys.exit(2)
if name == "two/base": os._exit(7)
tell("update", 10, "score 3")
"""
    )
    told = []
    found = side_by_side(wanted, tmp_path, [], 2, lambda *what: told.append(what))
    assert {cell.name: wrong for cell, wrong in found} == {
        "one/base": "",
        "one/guided": "the reason",
        "two/base": "its process ended with 7",
    }
    assert [event for name, event in told if name == "one/base"] == [
        ["start"],
        ["begin", "base", 10, 0],
        ["update", 10, "score 3"],
    ]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_processes_share_out_the_cores_and_keep_the_threads(tmp_path, children, monkeypatch):
    """A program of two threads has other bits than one of one: the number has to stay."""
    monkeypatch.delenv("NPROC", raising=False)
    wanted = [*all_cells(tmp_path).values()][:2]
    children(
        ASK
        + """
tell("say", [sorted(os.sched_getaffinity(0)), os.environ.get("NPROC")])
time.sleep(0.5)
"""
    )
    cores, told = sorted(os.sched_getaffinity(0)), []
    for jobs in (2, 1):
        for _ in side_by_side(wanted, tmp_path, [], jobs, lambda *what: told.append(what)):
            pass
    said = [event[1] for _, event in told if event[0] == "say"]
    half = len(cores) // 2
    number = str(len(cores))
    assert sorted(said[:2]) == [[cores[:half], number], [cores[half : 2 * half], number]]
    assert said[2:] == [[cores, None]] * 2
    assert sorted(os.sched_getaffinity(0)) == cores


def test_cells_that_would_train_the_same_are_kept_apart(tmp_path):
    """Until the phase is there: then what comes first in the file comes first."""
    found = all_cells(tmp_path)
    order = cells._Order([*found.values()])

    def after(*running, without=()):
        waiting = [c for name, c in found.items() if name not in {*running, *without}]
        return order.first(waiting, [*running]).name

    assert after() == "one/base"
    # guided would wait for the base algorithm; expectile trains another one.
    assert after("one/base") == "one/expectile"
    # Its behaviour model is the one that guided needs; the other task shares nothing.
    assert after("one/base", "one/expectile") == "two/base"
    order.note("one/base", ["begin", "online", 10, 0])
    assert after("one/base") == "one/guided"
    # Two cells with all phases in common, and nothing else that waits.
    others = [name for name in found if "guided" not in name]
    assert after("one/guided", without=others) == "two/guided"


def test_a_stopped_experiment_stops_every_process(tmp_path, children):
    two, pids = [*all_cells(tmp_path).values()][:2], []
    children(ASK + 'tell("say", os.getpid()); time.sleep(60)')

    def tell(name, event):
        pids.extend(event[1:])
        if len(pids) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0.2)

    found = side_by_side(two, tmp_path, [], 2, tell)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(found)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
