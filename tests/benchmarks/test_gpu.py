"""The GPU benchmark as a trial on the CPU: every section works, and the targets come last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(out, *options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", str(out), *options],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def troubles(found, path=""):
    """Where in the JSON there is an error or something was left out."""
    if not isinstance(found, dict):
        return []
    own = [f"{path}: {found[key]}" for key in ("error", "skipped") if key in found]
    return own + [t for key, value in found.items() for t in troubles(value, f"{path}/{key}")]


@pytest.mark.slow
def test_every_section(tmp_path):
    done = start(tmp_path / "found.json", "--budget", "1000")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert troubles(found) == [], done.stderr
    sections = found["sections"]
    assert list(sections) == [
        *("device", "offline", "precision", "online", "loop", "whole run", "targets")
    ]
    assert all(sections[s]["cases"] for s in ("device", "offline", "precision", "online", "loop"))
    assert sections["device"]["cases"]["about"]["platform"] == "cpu"
    for name, case in (sections["offline"]["cases"] | sections["online"]["cases"]).items():
        one, several = case["seeds"]["1"], case["seeds"]["8"]
        assert one["first_call_seconds"] > 0, name
        total, alone = several["total_per_second"]["median"], one["per_second"]["median"]
        assert 0.3 < case["multiple"] / (total / alone) < 3, name
    precisions = sections["precision"]["cases"]["iql offline"]["precisions"]
    assert precisions["default"]["speed_over_default"] == 1
    loop = sections["loop"]["cases"]["calql stratdiff"]
    assert sum(loop["share"].values()) == pytest.approx(1)
    whole = sections["whole run"]
    assert whole["extrapolated"] and whole["total"] == pytest.approx(sum(whole["minutes"].values()))
    lines = done.stdout.splitlines()
    assert lines[0] == "no GPU: this measures 'cpu'"
    assert lines[-1].startswith("| whole calql run, minutes (extrapolated) |")
    assert not list(tmp_path.glob(".*"))


def test_without_time_everything_is_skipped_but_told(tmp_path):
    done = start(tmp_path / "found.json", "--budget", "0")
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "found.json").read_text())["sections"]
    assert all(sections[s]["skipped"] for s in ("device", "offline", "loop", "whole run"))
    assert all(t["met"] is None for t in sections["targets"].values())
    assert done.stdout.splitlines()[-1].startswith("| whole calql run")
