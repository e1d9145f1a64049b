"""examples/early_stopping.py, and that a run which was ended goes on to the bits of a whole one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import runs

import stratdiff

FILE = Path(__file__).parents[2] / "examples" / "early_stopping.py"


def example():
    spec = importlib.util.spec_from_file_location("early_stopping", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.slow
def test_a_run_ends_at_the_evaluation_that_is_good_enough(small_run, tiny, tmp_path):
    points = runs.log_points(small_run.directory)
    online = {p["step"]: p["score"][0] for p in points if p["phase"] == "online" and "score" in p}
    config, calls = tiny(from_run=str(small_run.directory)), []
    ended = stratdiff.train(
        config,
        tmp_path / "run",
        reporter=runs.QUIET,
        on_eval=lambda point, metrics: point.phase == "online" and point.step >= 40,
        on_step=lambda session: calls.append(session.position.step),
    )
    assert ended.summary["online_steps"] == 40 and calls == [*range(40)]
    assert ended.scores["after"] == [online[40]]
    whole = stratdiff.resume(tmp_path / "run", reporter=runs.QUIET)
    assert whole.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert runs.log_points(whole.directory) == points

    def at_once(session):
        return True

    early = stratdiff.train(config, tmp_path / "one", reporter=runs.QUIET, on_step=at_once)
    assert early.summary["online_steps"] == 1


@pytest.mark.slow
def test_the_example_ends_early(small_run, data_file, tmp_path, capsys):
    points = [p for p in runs.log_points(small_run.directory) if "score" in p]
    options = {k: v for k, v in runs.TINY.items() if k != "preset"}
    options |= {"from_run": str(small_run.directory)}
    lowest = float(np.min([p["score"][0] for p in points]))
    result = example()(str(tmp_path / "run"), lowest, str(data_file), **options)
    assert result.summary["online_steps"] == 0  # the pre-trained policy is good enough
    text = capsys.readouterr().out
    assert "online step 0: score" in text and "ended after 0 of 120 online steps" in text
