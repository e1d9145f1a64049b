"""What programs do that have no command of their own: called within a server, by name."""

import dataclasses
import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pointmass

from stratdiff import registry
from stratdiff.config import read_config
from stratdiff.data import sources
from stratdiff.data.made import recipes
from stratdiff.data.tools.recorder import Recorder
from stratdiff.errors import UserError
from stratdiff.experiments import read_spec
from stratdiff.policy import Policy
from stratdiff.training.loop import resume, train

MADE = "stratdiff/hopper-random"
ROWS = 2000


def share(config, out, shared):
    """A run that takes phases from other runs."""
    registry.trust("*")
    config, out, shared = read_config(config), Path(out), Path(shared)
    if (out / "config.json").is_file():
        resume(out, shared=shared)
    else:
        train(config, out, shared=shared)


def load_made(name=MADE, rows=ROWS):
    """Load a made set, of few rows, by its name; print what was loaded."""
    known = recipes.RECIPES
    known[name] = known[name]._replace(rows=rows)
    data = sources.load(name)
    digest = hashlib.sha256()
    for key in ("observations", "actions", "rewards", "terminals", "ends", "transitions"):
        digest.update(np.ascontiguousarray(getattr(data, key)).tobytes())
    print("loaded", digest.hexdigest())


def act(path):
    """What a policy's file does in a few states."""
    policy = Policy.load(path)
    states = np.random.default_rng(0).normal(size=(len(policy), 50, len(policy.obs_mean)))
    print("acts", hashlib.sha256(policy.mode(states).tobytes()).hexdigest())


def cells(path):
    """The runs that an experiment's file asks for."""
    registry.trust("*")
    found = [(cell.name, dataclasses.asdict(cell.config)) for cell in read_spec(path)]
    print("cells", json.dumps(found, default=str))


def record(path, append=False, episodes=20):
    """Record episodes, and make the file of them."""
    env = gymnasium.make("PointMass-v0")
    env.action_space.seed(0)
    try:
        with Recorder(env, path, env_id=pointmass.ENV, append=append) as recorder:
            for seed in range(episodes):
                recorder.reset(seed=seed)
                ended = False
                while not ended:
                    ended = recorder.step(env.action_space.sample())[3]
    except UserError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


def export(policy, path):
    """Write a policy into a file of its own."""
    try:
        Policy.load(policy).save(path)
    except UserError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


def parse_toml(text):
    """Whether a text is TOML at all."""
    tomllib.loads(text)


def copy(source, target):
    """A fresh copy of a folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
