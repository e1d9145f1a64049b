"""docs/tutorial.ipynb: what is stored, and the whole of it run as it stands."""

import json
import shutil
import time
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_it_was_run_from_top_to_bottom_and_is_small():
    assert NOTEBOOK.stat().st_size < 300_000
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data"}


@pytest.mark.slow
def test_it_takes_less_than_ten_minutes_and_the_agent_learns(tmp_path, monkeypatch):
    """In a kernel, cell by cell."""
    monkeypatch.setenv("XLA_FLAGS", "")  # those of the tests compile quickly and compute slowly
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
