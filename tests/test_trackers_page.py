"""docs/trackers.md: its `stratdiff` commands, run one after the other, at tiny size."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from stratdiff.cli import main
from stratdiff.sinks.base import SINKS

PAGE = (Path(__file__).parents[1] / "docs" / "trackers.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("stratdiff ")
]


def test_the_page_names_every_tracker_and_extra():
    assert [command[0] for command in COMMANDS] == ["train", "train", "video", "video", "eval"]
    named = {word for command in COMMANDS[:2] for word in command}
    assert named & {*SINKS.names()} == {"tensorboard", "wandb", "video"}
    extras = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    for name in SINKS.names():
        assert f"\n{name} = [" in extras and name in PAGE


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, data_file, tiny_options, capsys):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    # Without models of the behaviour it trains in seconds.
    numbers = {k: v for k, v in tiny_options.items() if isinstance(v, int | float)}
    numbers = {k: v for k, v in numbers.items() if k not in ("behaviour_steps", "energy_steps")}
    numbers |= {"checkpoint_seconds": 600, "score": "none"}
    options = ["--dataset", str(data_file), "--env", tiny_options["env"]]
    for name, value in numbers.items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    for command in COMMANDS:
        chosen = options if command[0] == "train" else ["--trust-modules"]
        assert main([*command, *chosen]) == 0, command
    assert [*Path("runs/one/tensorboard").glob("events.out.tfevents.*")]
    assert [*Path("runs/two/wandb").glob("offline-run-*/*.wandb")]
    films = [path.name for path in Path("runs/two/video").iterdir()]
    assert len(films) == 5 and "before_after.gif" in films
    for name in ("policy.gif", "episode.gif"):
        with Image.open(name) as film:
            assert film.n_frames > 1
    assert b"ftyp" in Path("both.mp4").read_bytes()[:16]
