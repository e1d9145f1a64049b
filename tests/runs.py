"""What the tests of whole runs share: a loop of one's own, processes, and what a run leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pointmass

from stratdiff import files
from stratdiff.sinks.jsonl import read_metrics
from stratdiff.sinks.progress import Reporter
from stratdiff.training.evaluate import episode_seed

TESTS = Path(__file__).parent
SRC = str(Path(sys.modules["stratdiff"].__file__).parents[1])
QUIET = Reporter(quiet=True)
TINY = {
    "preset": "demo",
    "seeds": (0,),
    "env": pointmass.ENV,
    "batch_size": 16,
    "offline_steps": 60,
    "behaviour_steps": 60,
    "energy_steps": 40,
    "online_steps": 120,
    "online_warmup": 20,
    "log_interval": 20,
    "offline_eval_interval": 40,
    "eval_interval": 40,
    "eval_episodes": 2,
    "checkpoint_seconds": 0.0,
    # The first policy stays near zero: episodes are as long as tests expect.
    "iql": {"actor_hidden": [8, 8], "critic_hidden": [8, 8], "final_gain": 1e-2},
    "calql": {"actor_hidden": [8, 8], "critic_hidden": [8, 8], "sampled_actions": 3},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "rebrac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "behaviour": {"widths": [16, 8], "support_actions": 4, "batch_size": 16, "solver_steps": 4},
    "energy": {"hidden": [8, 8], "batch_size": 16},
}


def log_points(directory):
    """The log points of a run, without the wall time."""
    return [
        {key: value for key, value in record.items() if key != "time"}
        for record in read_metrics(directory / "metrics.jsonl")
    ]


def summary(directory):
    return json.loads((directory / "summary.json").read_text())


def copy(run, to):
    """A copy of a run, given by its result or its directory.

    Without the lock, which another test may hold at the moment.
    """
    locks = shutil.ignore_patterns(files.LOCK)
    shutil.copytree(getattr(run, "directory", run), to, ignore=locks)
    return to


def make_env():
    """The environment of `pointmass`, as a program makes one."""
    return gymnasium.make("PointMass-v0")


class Driver:
    """A caller's own environments, one a seed; it resets and replays them as `train` does."""

    def __init__(self, session, replay=True):
        self.session, self.replay = session, replay
        self.seeds = session.config.seeds
        self.envs = [make_env() for _ in self.seeds]
        self.several = len(self.seeds) > 1

    def enter(self, i):
        """The state in which the current episode of seed i goes on."""
        number, length = self.session.episode(i)
        obs, _ = self.envs[i].reset(seed=episode_seed(self.seeds[i], 0, number))
        if length and self.replay:
            obs = self.session.replay_episode(i, self.envs[i], obs)
            assert obs is not None
        return obs

    def drive(self, stop=None, after_observe=lambda step: None):
        """Act and observe until the run is done, or for `stop` steps; the last state."""
        obs, step = [self.enter(i) for i in range(len(self.seeds))], 0
        while not self.session.done and (stop is None or step < stop):
            action = self.session.act(np.stack(obs) if self.several else obs[0])
            new = [env.step(a) for env, a in zip(self.envs, np.atleast_2d(action), strict=True)]
            obs, reward, terminated, truncated = (list(x) for x in list(zip(*new, strict=True))[:4])
            if self.several:
                self.session.observe(reward, np.stack(obs), terminated, truncated)
            else:
                self.session.observe(reward[0], obs[0], terminated[0], truncated[0])
            step += 1
            after_observe(step)
            for i in range(len(self.seeds)):
                if terminated[i] or truncated[i]:
                    obs[i] = self.enter(i)


def process(cache, *args, **variables):
    """A Python process that knows the test environment and shares compiled programs in `cache`."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(TESTS), SRC)),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Its output, when it has ended well."""
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def kill_when(process, directory, phase, step):
    """SIGKILL as soon as metrics.jsonl has a log point at or after this one."""
    path, limit = directory / "metrics.jsonl", time.monotonic() + 240
    while time.monotonic() < limit and process.poll() is None:
        records = read_metrics(path) if path.exists() else []
        if any(r["phase"] == phase and r["step"] >= step for r in records):
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.005)
    raise AssertionError(f"never reached {phase} {step}: {process.communicate()[0]}")


class Recording:
    """A sink of somebody's own: writes down every call."""

    def __init__(self, directory, config):
        self.path, self.config = directory / "recording.txt", config
        self.write("open", config["seeds"])

    def write(self, *what):
        with self.path.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def rewind(self, points, total_step):
        self.write("rewind", points, total_step)

    def log(self, point, metrics):
        values = {name: np.asarray(v).shape for name, v in metrics.items()}
        self.write("log", point.phase, point.step, point.total_step, values)

    def finish(self, summary):
        self.write("finish", summary["parameters_sha256"])

    def close(self):
        self.write("close")


assert pointmass.ENV  # importing it registers the environment


def recorded(directory):
    """What `Recording` wrote down."""
    return [json.loads(line) for line in (directory / "recording.txt").read_text().splitlines()]
