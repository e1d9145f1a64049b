"""Servers for the faults' commands, uninterrupted runs to compare with, and the final table."""

from collections import defaultdict
from pathlib import Path

import pointmass
import pytest
import runs
from server import HERE, Server
from trials import command, result, well

from stratdiff.data import hdf5
from stratdiff.data.tools.recorder import Recorder

PATH = (HERE, runs.TESTS, runs.SRC)


@pytest.fixture(scope="session")
def forks(tmp_path_factory, programs):
    """Commands in children of their own."""
    server = Server(tmp_path_factory.mktemp("forks"), programs, PATH)
    yield server
    server.close()


@pytest.fixture(scope="session")
def warm(tmp_path_factory, programs):
    """Commands one after the other in one process."""
    server = Server(tmp_path_factory.mktemp("warm"), programs, PATH)
    yield server
    server.close()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "clumsy.hdf5"
    hdf5.write(path, pointmass.make_arrays(episodes=6), pointmass.ENV)
    return path


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """The log of a Recorder whose program died."""
    folder = tmp_path_factory.mktemp("recording")
    recorder = Recorder(runs.make_env(), folder / "set.hdf5", env_id=pointmass.ENV)
    recorder.action_space.seed(0)
    for seed in range(5):
        recorder.reset(seed=seed)
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = recorder.step(recorder.action_space.sample())
            ended = terminated or truncated
    kept = folder / "died.partial"
    kept.write_bytes((folder / "set.hdf5.partial").read_bytes())
    recorder.close()
    return kept


class Whole:
    """An uninterrupted run: where it is, what it gives, how long it takes, how many changes."""

    def __init__(self, forks, data, folder, kind):
        self.directory = folder / kind
        well(forks.run(*command(data, folder / "first", kind)))  # it compiles
        options = {"root": str(self.directory), "changes": str(folder / f"{kind}-changes")}
        outcome = well(forks.run(*command(data, self.directory, kind), **options))
        self.seconds, self.changes = outcome.seconds, int(Path(options["changes"]).read_text())
        self.result = result(self.directory)


@pytest.fixture(scope="session")
def plain(forks, small_data, tmp_path_factory):
    return Whole(forks, small_data, tmp_path_factory.mktemp("plain"), "none")


@pytest.fixture(scope="session")
def guided(forks, small_data, tmp_path_factory):
    return Whole(forks, small_data, tmp_path_factory.mktemp("guided"), "guided")


def pytest_terminal_summary(terminalreporter):
    """A table of what was tried: one trial a test, unless the test says how many it made."""
    parts = defaultdict(lambda: [0, 0])
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            path = Path(report.fspath)
            if path.parent.name != HERE.name or (report.when != "call" and outcome == "passed"):
                continue
            said = dict(report.user_properties)
            tried = said.get("trials", 1)
            failed = 0 if outcome == "passed" else said.get("failures", tried)
            parts[path.stem.removeprefix("test_")][0] += tried
            parts[path.stem.removeprefix("test_")][1] += failed
    if parts:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'part':<14}{'tried':>8}{'survived':>10}{'failed':>8}")
    for part, (tried, failed) in sorted(parts.items()):
        terminalreporter.write_line(f"{part:<14}{tried:>8}{tried - failed:>10}{failed:>8}")
