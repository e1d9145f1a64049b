"""examples/quickstart.py at tiny size; the names and links of the README exist."""

import re
import runpy
from pathlib import Path

import pytest

import stratdiff

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quickstart(tmp_path, data_file, tiny_options, capsys):
    main = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))["main"]
    options = {k: v for k, v in tiny_options.items() if k not in ("preset", "env")}
    result = main(str(tmp_path / "run"), str(data_file), **options)
    assert "first reward" in capsys.readouterr().out
    assert len(result.scores["before"]) == len(result.scores["after"]) == 1


def test_the_readmes_names_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"stratdiff\.(\w+)\(", text):
        assert hasattr(stratdiff, name)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
