"""A robot that is no Gymnasium environment: record it, pre-train, and go on learning on it.

    python examples/robot.py simulate &          # a simulated arm that listens on a port
    python examples/robot.py record              # a clumsy controller gives arm.hdf5
    python examples/robot.py learn               # pre-trains, then learns while the arm moves

Ctrl-C, the red button and a power cut end a day's work; `learn` goes on tomorrow where it stopped.
docs/robots.md explains the parts.
"""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

import stratdiff
from stratdiff.data.tools.log import Log

RATE = float(os.environ.get("ARM_RATE", "20"))  # control steps a second; 0: as fast as it can
PORT = int(os.environ.get("ARM_PORT", "5005"))
EPISODE = 100  # steps after which an attempt is cut off
TORQUE = 2.0  # the arm's limit, in Nm; the agent acts in [-1, 1]
SIZES = {"observations": 10, "actions": 2}


class ArmLost(Exception):
    """The arm no longer answers, or somebody pressed the red button: stop for today."""


class Arm:
    """The driver: connects, sends torques at a fixed rate, reads states and buttons."""

    def __init__(self, port=PORT, rate=RATE, patience=2.0):
        """`patience`: seconds after which a state that has not come is an error."""
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=patience)
        except OSError as error:
            raise ArmLost(f"no arm answers on port {port} ({error})") from error
        self.lines = self.socket.makefile("rw")
        self.period, self.due = 1 / rate if rate else 0.0, time.monotonic()
        self.overruns = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # what was not sent to a dead arm
            self.lines.close()
        self.socket.close()

    def start(self):
        """Move to a new start, at rest; the state there."""
        self.applied, self.steps = np.zeros(2), 0
        found = self._ask({"start": True})
        self.due = time.monotonic() + self.period
        return self._state(found)

    def step(self, action):
        """Apply an action in [-1, 1] for one period: (state, reward, terminated, truncated)."""
        self.applied = np.asarray(action, float)
        found = self._ask({"torque": (TORQUE * self.applied).tolist()})
        late = self._wait()
        self.steps += 1
        if found["red_button"]:
            raise ArmLost("the red button was pressed")
        state = self._state(found)
        # Only success ends an attempt for good. A limit of time, or a step that took much longer
        # than the others, cuts it off: the agent goes on to expect rewards after it.
        reward = -float(np.hypot(*found["to_target"])) + 10.0 * found["success_button"]
        truncated = self.steps >= EPISODE or late
        return state, reward, bool(found["success_button"]), truncated

    def _wait(self):
        """Sleep until the period is over; whether it was over by more than a period already."""
        left = self.due - time.monotonic()
        if self.period:
            time.sleep(max(left, 0))
        late = bool(self.period) and left < -self.period
        self.overruns += late
        self.due = time.monotonic() + self.period if left < 0 else self.due + self.period
        return late

    def _ask(self, message):
        try:
            self.lines.write(json.dumps(message) + "\n")
            self.lines.flush()
            return json.loads(self.lines.readline())
        except (OSError, ValueError) as error:  # no answer in time, or half of one
            raise ArmLost(f"the arm does not answer ({error})") from error

    def _state(self, found):
        # The torque that acts is part of the state, because the limits below depend on it.
        angles = np.array(found["angles"])
        parts = np.cos(angles), np.sin(angles), found["speeds"], found["to_target"], self.applied
        return np.concatenate(parts)


class Safe:
    """The arm behind limits. The agent's own action is what is stored and learned from.

    Actions are averaged with what is applied, change by at most `most` in a step, and no torque
    speeds up a joint that is faster than `fastest` (rad/s).
    """

    def __init__(self, arm, weight=0.5, most=0.5, fastest=3.0):
        self.arm, self.weight, self.most, self.fastest = arm, weight, most, fastest

    def start(self):
        self.speeds = np.zeros(2)
        return self.arm.start()

    def step(self, action):
        last = self.arm.applied
        change = self.weight * (np.asarray(action) - last)
        wanted = last + np.clip(change, -self.most, self.most)
        outwards = wanted * self.speeds > 0
        state, *rest = self.arm.step(
            np.where((np.abs(self.speeds) > self.fastest) & outwards, 0.0, wanted)
        )
        self.speeds = state[4:6]
        return state, *rest


def controller(state, rng):
    """Torques along the transposed Jacobian, towards the target; clumsy, and with noise."""
    (c1, c2, s1, s2), speeds, to_target = state[:4], state[4:6], state[6:8]
    c12, s12 = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
    jacobian = np.array([[-s1 - s12, -s12], [c1 + c12, c12]])
    action = (jacobian.T @ to_target - 0.3 * speeds) / TORQUE + 0.35 * rng.normal(size=2)
    return np.clip(action, -1, 1)


def record(path="arm.hdf5", episodes=100):
    """Attempts of the controller; rows are on the disk after each of them."""
    rng, log = np.random.default_rng(0), Log(Path(path), SIZES, "", {}, append=True)
    with Arm() as robot:
        arm = Safe(robot)
        for _ in range(episodes):
            state, over = arm.start(), False
            while not over:
                action = controller(state, rng)
                after, reward, terminated, truncated = arm.step(action)
                log.append(observations=state, actions=action, rewards=reward, terminals=terminated)
                state, over = after, terminated or truncated
            if not terminated:  # the last state of an attempt that was cut off
                log.append(observations=state, timeouts=True)
            log.flush()
    log.close()


def learn(directory="runs/arm", data="arm.hdf5", **options):
    """Pre-train, then learn online; the same call goes on with a run that was stopped."""
    options = {"online_steps": 10_000, "score": "support", "eval_episodes": 0} | options
    config = stratdiff.make_config("demo", dataset=data, env=stratdiff.OUTSIDE, **options)
    with stratdiff.Session(config, directory) as session:
        session.pretrain()  # minutes, and before the arm is touched
        try:
            with Arm() as robot:
                arm = Safe(robot)
                state = arm.start()
                while not session.done:
                    action = session.act(state)  # learns from the last step, too
                    state, reward, terminated, truncated = arm.step(action)
                    session.observe(reward, state, terminated, truncated)
                    if terminated or truncated:
                        state = arm.start()
        except (ArmLost, KeyboardInterrupt) as error:
            session.save()
            step = session.position.step
            sys.exit(f"stopped at step {step} ({error or 'Ctrl-C'}); run the same command to go on")
        return session.finish()


def simulate(port=PORT, breaks_after=0):
    """An arm of two links with a target, as a process of its own; it may break after some steps."""
    rng, steps = np.random.default_rng(0), 0
    with socket.create_server(("127.0.0.1", port)) as server:
        print(f"the simulated arm listens on port {port}", flush=True)
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "start" in message:
                        angles, speeds = rng.uniform(-np.pi, np.pi, 2), np.zeros(2)
                        radius, direction = rng.uniform(0.5, 1.8), rng.uniform(0, 2 * np.pi)
                        target = radius * np.array([np.cos(direction), np.sin(direction)])
                    else:
                        steps += 1
                        if steps == breaks_after:
                            os._exit(1)  # a power cut: no answer, no goodbye
                        speeds = 0.9 * speeds + 0.1 * np.array(message["torque"])
                        angles = angles + 0.1 * speeds
                    links = np.array([angles[0], angles.sum()])
                    to_target = target - [np.cos(links).sum(), np.sin(links).sum()]
                    near = np.hypot(*to_target) < 0.05 and np.abs(speeds).max() < 0.5
                    answer = {
                        "angles": angles.tolist(),
                        "speeds": speeds.tolist(),
                        "to_target": to_target.tolist(),
                        "success_button": bool(near),
                        "red_button": Path("red-button").exists(),
                    }
                    lines.write(json.dumps(answer) + "\n")
                    lines.flush()


if __name__ == "__main__":
    commands = {"simulate": simulate, "record": record, "learn": learn}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    command, *words = sys.argv[1:]
    try:
        commands[command](*(int(word) if word.isdigit() else word for word in words))
    except (ArmLost, stratdiff.UserError) as error:
        sys.exit(f"error: {error}")
