"""`--track video`: a film for every policy that a run keeps, and one of before and after."""

import shutil

import numpy as np
import pointmass
import pytest
from PIL import Image

from stratdiff.config import OUTSIDE
from stratdiff.errors import UserError
from stratdiff.policy import policy_file
from stratdiff.sinks.base import SINKS, LogPoint, Sink
from stratdiff.sinks.jsonl import NAME
from stratdiff.sinks.trackers import FILM


@pytest.fixture
def config(tiny):
    return tiny(track=("video",)).to_table()


def opened(directory, config):
    (directory / NAME).touch()
    sink = SINKS.find("video")(directory, config)
    assert isinstance(sink, Sink)
    sink.rewind(0, 0)
    return sink


def log(sink, phase, step, **metrics):
    sink.log(LogPoint(phase, step, step, 0.0), {k: np.array([v]) for k, v in metrics.items()})


def films(directory):
    return sorted(path.name for path in (directory / FILM).parent.glob("*"))


def test_films_of_a_run(small_run, config, tmp_path):
    (tmp_path / "policies").mkdir()
    sink = opened(tmp_path, config)
    log(sink, "base", 40, score=1.0)
    assert films(tmp_path) == []
    for step in (0, 40):
        shutil.copy(policy_file(small_run.directory, step), policy_file(tmp_path, step))
        log(sink, "online", step, score=1.0)
    log(sink, "online", 60, q_mean=1.0)
    log(sink, "online", 80, score=1.0)  # its policy is not kept
    assert films(tmp_path) == ["step_000000000.gif", "step_000000040.gif"]
    shutil.copy(small_run.directory / "policy.safetensors", tmp_path)
    # One that is there, as after a resume, is left alone.
    marked = tmp_path / "video" / "step_000000040.gif"
    marked.write_bytes(b"kept")
    log(sink, "online", 40, score=1.0)
    sink.finish({"score": {}})
    sink.close()
    assert marked.read_bytes() == b"kept"
    single = tmp_path / "video" / "step_000000000.gif"
    with Image.open(tmp_path / FILM) as both, Image.open(single) as one:
        assert both.n_frames == one.n_frames == pointmass.HORIZON + 1
        assert both.width == 2 * one.width


def test_what_cannot_be_filmed_stops_the_run_before_it_trains(config, tmp_path):
    with pytest.raises(UserError, match="the run has no environment by name"):
        opened(tmp_path, config | {"env": OUTSIDE})


def test_a_film_that_fails_does_not_stop_the_run(small_run, config, tmp_path, capsys):
    (tmp_path / "policies").mkdir()
    sink = opened(tmp_path, config)
    policy_file(tmp_path, 0).write_bytes(b"no policy")
    log(sink, "online", 0, score=1.0)
    sink.finish({"score": {}})
    sink.close()
    assert capsys.readouterr().err.count("warning: --track video failed (UserError") == 1
    assert films(tmp_path) == []
