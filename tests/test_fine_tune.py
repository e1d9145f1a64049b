"""docs/fine-tune.md: its commands, one after the other, at tiny size."""

import json
import re
from pathlib import Path

import pytest
import runs

from stratdiff.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "fine-tune.md").read_text()
COMMANDS = re.findall(r"^stratdiff (train .*)$", PAGE, re.M)
EXCERPT = re.search(r"```python\n# examples/early_stopping.py\n(.*?)```", PAGE, re.S)[1]


def test_the_excerpt_is_in_the_example():
    text = (Path(__file__).parents[1] / "examples" / "early_stopping.py").read_text()
    assert EXCERPT.strip() in text


@pytest.mark.slow
def test_the_commands_of_the_page(data_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.hdf5").write_bytes(data_file.read_bytes())
    config = {k: v for k, v in runs.TINY.items() if k not in ("preset", "online_steps", "env")}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    for command in COMMANDS:
        words = command.replace(" --online-steps 20000", " --online-steps 40").split()
        if "--from" not in words:
            words += ["--config", "tiny.json"]
        if "--env" in words:
            words[words.index("--env") + 1] = runs.TINY["env"]
        if "--out" not in words:
            words += ["--out", "runs/alone", "--eval-episodes", "0"]
        assert main(words) == 0, words
    said = capsys.readouterr().err
    assert "other options: --score none (there guided), --online-steps 40 (there 0)" in said
    assert "seeds start from its 0 0 0" in said
    summary = runs.summary(tmp_path / "runs" / "utd5")
    assert summary["online_steps"] == 40 and summary["seeds"] == [0, 1, 2]
    records = runs.log_points(tmp_path / "runs" / "alone")
    assert "validation_td_error" in records[-1] and records[-1]["phase"] == "base"
