"""docs/tutorial.ipynb: its code in a plain process at tiny size, and the whole of it as it stands."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_code_runs_in_a_plain_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n\n".join(CODE)
    # Without diffusion models; the diagnostics are the same.
    for old, new in (("EPISODES = 20", "EPISODES = 4"), ('score="guided"', 'score="random"')):
        assert code.count(old) == 1
        code = code.replace(old, new)
    code, found = re.subn(r'("\w+_steps": )[\d_]+', r"\g<1>40", code)
    assert found == 6
    code, found = re.subn(r'("eval_interval": )[\d_]+', r'\g<1>20, "log_interval": 10', code)
    assert found == 1
    code, found = re.subn(r'("\w+_warmup": )[\d_]+', r"\g<1>10", code)
    names = {}
    exec(compile(code, str(NOTEBOOK), "exec"), names)
    assert "stopped" in capsys.readouterr().out
    assert len(names["scored"]) > 0
    assert names["act"](names["obs"]) == pytest.approx(names["result"].policy.act(names["obs"]))


@pytest.mark.slow
def test_it_takes_less_than_ten_minutes_and_the_agent_learns(tmp_path):
    """In a kernel, cell by cell."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    start = time.monotonic()
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.monotonic() - start < 600
    summary = json.loads((tmp_path / "runs" / "pendulum" / "summary.json").read_text())
    score = {when: summary["score"][when]["mean"] for when in ("before", "after")}
    assert summary["dataset"]["mean_score"] < score["before"] < score["after"]
