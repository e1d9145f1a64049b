"""docs/own-data.md: its files, written out and run one after the other, at tiny size."""

import re
import runpy
import sys
from pathlib import Path

import gymnasium
import numpy as np

from stratdiff import Policy
from stratdiff.cli import main
from stratdiff.data import hdf5

PAGE = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text()
BLOCKS = {
    re.match(r"# (\w+\.py)\n", block)[1]: block
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S)
}
LENGTHS = '{"offline_steps": 20_000, "online_steps": 5_000}'


def replaced(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


def test_the_page_leads_to_a_policy(tmp_path, monkeypatch, tiny_options, capsys):
    assert list(BLOCKS) == ["reach.py", "record.py", "learn.py", "act.py", "arrays.py"]
    options = {k: v for k, v in tiny_options.items() if k not in ("preset", "env")}
    # Compiles and saves less.
    options |= {"score": "none", "checkpoint_seconds": 60.0, "log_interval": 60}
    files = dict(BLOCKS)
    files["record.py"] = replaced(files["record.py"], "EPISODES = 200", "EPISODES = 6")
    files["learn.py"] = replaced(files["learn.py"], LENGTHS, repr(options))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        runpy.run_path("record.py")
        dataset = hdf5.read("reach.hdf5")
        assert len(dataset) == 6 * 100
        assert len(dataset.episode_returns) == 6
        assert dataset.env_id == "reach:Reach-v0"
        # Far from all at a bound: the scaling fits the controller.
        assert 0.2 < np.abs(dataset.actions[dataset.transitions]).mean() < 0.8

        result = runpy.run_path("learn.py")["result"]
        assert result.summary["environment"] == "reach:Reach-v0"
        action = Policy.load("runs/reach/policy.safetensors")(dataset.observations[0])
        assert action.shape == (2,)
        assert np.abs(action).max() <= 1

        (line,) = re.findall(r"^stratdiff (export .*)$", PAGE, re.M)
        assert main(line.split()) == 0
        exported = runpy.run_path("policy.py")["act"](dataset.observations[0])
        np.testing.assert_allclose(exported, 2 * action, atol=1e-6)  # the page's bounds
        assert Path("policy.onnx").stat().st_size > 100

        act = runpy.run_path("act.py")
        assert f"return {act['total']}" in capsys.readouterr().out
        assert -400 < act["total"] < 0

        runpy.run_path("arrays.py")
        assert len(hdf5.read("arrays.hdf5")) == 150
    finally:
        sys.modules.pop("reach", None)
        gymnasium.registry.pop("Reach-v0", None)


def test_the_pages_controller_is_better_than_chance(tmp_path, monkeypatch):
    """Otherwise there would be nothing to learn from the data."""
    (tmp_path / "reach.py").write_text(BLOCKS["reach.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    returns = {}
    try:
        chance = re.sub(
            r"    return -1.0 .*", "    return rng.uniform(-2, 2, 2)", BLOCKS["record.py"]
        )
        for name, text in (("page", BLOCKS["record.py"]), ("chance", chance)):
            text = replaced(text, "EPISODES = 200", "EPISODES = 40")
            text = replaced(text, '"reach.hdf5"', f'"{name}.hdf5"')
            (tmp_path / f"{name}.py").write_text(text)
            runpy.run_path(f"{name}.py")
            returns[name] = hdf5.read(f"{name}.hdf5").episode_returns
    finally:
        sys.modules.pop("reach", None)
        gymnasium.registry.pop("Reach-v0", None)
    assert returns["page"].mean() > returns["chance"].mean() + 20
    assert np.std(returns["page"]) > 1
