"""examples/robot.py with its simulated arm in a process that dies, as after a power cut."""

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs

from stratdiff.data import hdf5

FILE = Path(__file__).parents[2] / "examples" / "robot.py"
PAGE = (FILE.parents[1] / "docs" / "robots.md").read_text()


@pytest.fixture
def robot(monkeypatch, tmp_path):
    """The example as a module, in an empty folder, as fast as it can."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("ARM_RATE", "0")
    monkeypatch.setenv("ARM_PORT", str(port))
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("robot_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def simulate(robot):
    """Starts the simulated arm; all of them end with the test."""
    started = []

    def start(breaks_after=0):
        args = [sys.executable, str(FILE), "simulate", str(robot.PORT), str(breaks_after)]
        process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and "listens" in process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_an_arm_that_dies_and_comes_back(robot, simulate, tiny_options, capsys):
    arm = simulate()
    robot.record(episodes=3)
    data = hdf5.read("arm.hdf5")
    assert data.observations.shape[1] == 10 and len(data) <= 300
    assert len(data.episode_returns) == 3
    # Rows say what the agent's interface was given; the limits are the arm's.
    assert np.abs(data.actions).max() <= 1
    arm.kill()
    arm.wait()

    options = {k: v for k, v in tiny_options.items() if k not in ("preset", "env")}
    options |= {"score": "none", "eval_episodes": 0, "checkpoint_seconds": 60.0}
    options |= {"offline_steps": 20, "log_interval": 60, "reward_scale": 1.0}
    with pytest.raises(SystemExit, match=r"stopped at step 0 \(no arm answers on port"):
        robot.learn(**options)
    simulate(breaks_after=50)
    with pytest.raises(SystemExit, match=r"stopped at step 49 \(the arm does not answer"):
        robot.learn(**options)
    simulate()
    Path("red-button").touch()
    with pytest.raises(SystemExit, match=r"stopped at step 49 \(the red button"):
        robot.learn(**options)
    Path("red-button").unlink()
    result = robot.learn(**options)
    assert result.summary["online_steps"] == 120
    steps = [p["step"] for p in runs.log_points(result.directory) if p["phase"] == "online"]
    assert steps == [60, 120]
    text = capsys.readouterr().err
    assert "the episode of seed 0 could not be continued" in text


def test_limits_and_a_late_arm(robot, monkeypatch):
    """Of the driver alone, against an arm that answers at once, and a clock that is given."""
    sent, clock = [], [0.0]

    class Quick(robot.Arm):
        def __init__(self):
            self.period, self.due, self.overruns = 0.1, 0.1, 0

        def _ask(self, message):
            sent.append(message.get("torque"))
            state = {"angles": [0.0, 0.0], "speeds": [4.0, 0.0], "to_target": [3.0, 4.0]}
            return state | {"success_button": False, "red_button": False}

    monkeypatch.setattr(robot.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(robot.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    arm = robot.Safe(Quick())
    arm.start()
    state, reward, terminated, truncated = arm.step([1.0, -1.0])
    assert sent[-1] == [1.0, -1.0]  # half of what was asked, in the arm's units of 2 Nm
    assert (reward, terminated, truncated) == (-5.0, False, False)
    assert state[8:].tolist() == [0.5, -0.5]
    arm.step([1.0, -1.0])  # the first joint is too fast now
    assert sent[-1] == [0.0, -1.5]
    clock[0] += 0.35  # the next step comes much too late, so the attempt is cut off
    assert arm.step([0.0, 0.0])[2:] == (False, True)
    assert arm.arm.overruns == 1
    arm.arm.steps = robot.EPISODE - 1
    assert arm.step([0.0, 0.0])[3]


def test_the_page_shows_what_the_example_does(robot):
    """Every command of the page is one of the example, and every excerpt is in it."""
    text = FILE.read_text()
    commands = re.findall(r"^python examples/robot.py (\w+)", PAGE, re.M)
    assert {*commands} == {"simulate", "record", "learn"}
    excerpts = re.findall(r"```python\n# examples/robot.py\n(.*?)```", PAGE, re.S)
    assert len(excerpts) >= 2 and all(excerpt.strip() in text for excerpt in excerpts)
