"""The forecast of a run's duration: hand-worked sums, and bits that do not depend on it."""

import re

import pytest
import runs

from stratdiff.envs.guard import Guard
from stratdiff.sinks.progress import Reporter
from stratdiff.training import loop, offline
from stratdiff.training.forecast import Stopwatch


@pytest.fixture
def any_run(monkeypatch):
    """A forecast for runs of seconds, too."""
    monkeypatch.setattr(offline, "SHORTEST", 0)


class Expecting(Reporter):
    def __init__(self):
        super().__init__()
        self.expected = []

    def say(self, text):
        pass

    def update(self, done, note=""):
        pass

    def expect(self, seconds):
        self.expected.append(seconds)


@pytest.mark.slow
def test_the_sums_are_those_of_the_parts(any_run, monkeypatch, tiny, tmp_path):
    timed = []

    def phase(self, phase, length, stored):
        timed.append((phase.name, length, stored))
        return 1.0

    monkeypatch.setattr(Stopwatch, "phase", phase)
    monkeypatch.setattr(Stopwatch, "storing", lambda self, phase: 0.5)
    monkeypatch.setattr(Stopwatch, "online", lambda self, number, stored: 2.0)
    monkeypatch.setattr(offline, "acting", lambda policy, obs: 0.125)
    monkeypatch.setattr(Guard, "try_out", lambda self: 0.25)
    reporter, config = Expecting(), tiny()
    result = loop.train(config, tmp_path / "run", reporter=reporter)
    about = result.summary["dataset"]
    # Two episodes, as long as those of the data.
    evaluation = about["transitions"] / about["episodes"] * (0.125 + 2 * 0.25)
    first, again = reporter.expected
    assert first == pytest.approx(
        {
            "base": 60 + 2 * evaluation,  # at 40 and at the end
            "behaviour": 60,
            "support": about["transitions"] * 0.5,
            "energy": 40,
            "online": 120 * (2 + 0.25) + 4 * evaluation,  # at 0, 40, 80 and 120
        }
    )
    assert again == {"online": first["online"]}
    # The lengths between two log points, and whether the support actions are there by then.
    assert timed == [("base", 20, False), ("behaviour", 20, False), ("energy", 20, True)]


@pytest.mark.slow
def test_the_bits_do_not_depend_on_it(any_run, small_run, tmp_path):
    with (tmp_path / "said").open("w+") as stream:
        result = loop.train(small_run.config, tmp_path / "run", reporter=Reporter(stream))
        stream.seek(0)
        said = [line for line in stream if line.startswith("time ")]
    assert result.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert runs.log_points(result.directory) == runs.log_points(small_run.directory)
    assert result.summary["seconds"]["forecast"] > 0
    assert "forecast" not in small_run.summary["seconds"]  # nobody would have read it
    part = r"\d+ s"
    assert re.fullmatch(
        rf"time +about {part} on this machine \(base {part}, behaviour {part}, energy {part}, "
        rf"online {part}\)\n",
        said[0],  # the support actions of so few rows take no time
    )
    assert re.fullmatch(rf"time +about {part} on this machine \(online {part}\)\n", said[1])


@pytest.mark.slow
def test_a_run_of_seconds_has_none_and_what_is_shared_takes_no_time(
    small_run, monkeypatch, tmp_path
):
    config, reporter = small_run.config, Expecting()
    shared = tmp_path / "shared"
    loop.train(config, tmp_path / "a", reporter=reporter, shared=shared)
    assert reporter.expected == []
    monkeypatch.setattr(offline, "SHORTEST", 0)
    monkeypatch.setattr(Stopwatch, "phase", lambda *_: pytest.fail("it was timed"))
    monkeypatch.setattr(Stopwatch, "storing", lambda *_: pytest.fail("it was timed"))
    result = loop.train(config, tmp_path / "b", reporter=reporter, shared=shared)
    first = reporter.expected[0]
    assert first.pop("online") > 0.0
    assert set(first.values()) == {0.0}
    assert result.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
