"""An environment in full: recorded, stored as text, and made again without importing code."""

import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import RecordConstructorArgs

from stratdiff import registry
from stratdiff.envs import identity
from stratdiff.errors import BadEnvironment, UserError
from stratdiff.tasks import find_task, load_env

MODULE = """
import gymnasium, numpy as np
from gymnasium.spaces import Box

class Toy(gymnasium.Env):
    metadata = {"render_modes": ["ansi"]}
    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    def __init__(self, goal=0.0, render_mode=None):
        self.goal, self.render_mode = goal, render_mode
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); return np.zeros(3, "f4"), {}
    def step(self, action):
        return np.zeros(3, "f4"), -float(self.goal), False, False, {}

class Plain(gymnasium.Wrapper):
    pass

class Times(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    def __init__(self, env, factor=2.0):
        gymnasium.utils.RecordConstructorArgs.__init__(self, factor=factor)
        super().__init__(env)
        self.factor = factor

def wrapped(goal=0.0):
    return Plain(Toy(goal))

def limited(goal=0.0):
    return gymnasium.wrappers.TimeLimit(Toy(goal), 7)

def print_nothing():
    pass

number = 3
gymnasium.register("IdToy-v0", "identity_env:Toy", max_episode_steps=20)
gymnasium.register("IdWrapped-v0", "identity_env:wrapped", max_episode_steps=20)
gymnasium.register("IdOpaque-v0", Toy, max_episode_steps=20, kwargs={"goal": np.ones(1)})
"""
TOY = "identity_env:IdToy-v0"


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "identity_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("identity_env", None)
    for name in [name for name in gymnasium.registry if name.startswith("Id")]:
        del gymnasium.registry[name]


def again(env, env_id=TOY, **options):
    """The environment from what a recording of it says."""
    return identity.make(identity.exact(env_id, identity.write(env, env_id), **options))


def test_arguments_and_time_limit_come_back():
    env = gymnasium.make(TOY, goal=5.0, max_episode_steps=9, render_mode="ansi")
    found = again(env)
    assert (found.unwrapped.goal, found.spec.max_episode_steps) == (5.0, 9)
    assert found.unwrapped.render_mode is None  # how it is looked at is no part of it
    assert again(gymnasium.make(TOY)).unwrapped.goal == 0
    assert again(gymnasium.make(TOY, goal=np.float64(2.5))).unwrapped.goal == 2.5
    assert again(gymnasium.make(TOY, max_episode_steps=-1)).spec.max_episode_steps is None


def test_the_text_is_gymnasiums_own():
    env = gymnasium.make(TOY, goal=[1, {"a": None}])
    text = identity.write(env, TOY)
    spec = gymnasium.envs.registration.EnvSpec.from_json(text)
    assert (spec.id, spec.kwargs) == ("IdToy-v0", {"goal": [1, {"a": None}]})
    assert spec.max_episode_steps == 20 and spec.entry_point == "identity_env:Toy"


def test_options_win_over_what_was_recorded():
    env = gymnasium.make(TOY, goal=5.0)
    assert again(env, kwargs='{"goal": 2}').unwrapped.goal == 2
    assert again(env, kwargs="{}").unwrapped.goal == 0
    found = again(env, max_episode_steps=3)
    assert (found.unwrapped.goal, found.spec.max_episode_steps) == (5.0, 3)
    assert identity.exact("Hopper-v4") == "Hopper-v4"
    # A recording says nothing of another environment.
    assert identity.exact("Hopper-v4", identity.write(env, TOY)) == "Hopper-v4"


def test_wrappers_that_know_their_arguments_come_back():
    env = gymnasium.wrappers.RescaleAction(gymnasium.make(TOY), np.float32(-2), np.float32(2))
    env = gymnasium.wrappers.RecordEpisodeStatistics(env)  # it only watches
    env = sys.modules["identity_env"].Times(env, factor=3.0)  # of the module that is named anyway
    found = again(env)
    assert type(found).__name__ == "Times" and found.factor == 3.0
    assert isinstance(found.env, gymnasium.wrappers.RescaleAction)
    assert found.env.action_space.high.tolist() == [2, 2]
    assert find_task(identity.exact(TOY, identity.write(env, TOY))).horizon == 20


def test_what_comes_with_the_id_need_not_be_known():
    env = gymnasium.make("identity_env:IdWrapped-v0", goal=4.0)
    found = again(env, "identity_env:IdWrapped-v0")
    assert [w.name for w in found.spec.additional_wrappers] == ["Plain"]
    assert found.unwrapped.goal == 4.0
    env = gymnasium.make("identity_env:IdOpaque-v0")  # an argument that JSON does not have
    assert again(env, "identity_env:IdOpaque-v0").unwrapped.goal.tolist() == [1]


class Anonymous(gymnasium.Wrapper):
    pass


class Opaque(gymnasium.Wrapper, RecordConstructorArgs):
    def __init__(self, env, what):
        RecordConstructorArgs.__init__(self, what=what)
        super().__init__(env)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (Anonymous, "the wrapper Anonymous, which could not be restored"),
        (lambda env: Opaque(env, print), "the wrapper Opaque"),
        (lambda env: Opaque(env, {1: 2}), "the wrapper Opaque"),
        (gymnasium.wrappers.NormalizeReward, "the wrapper NormalizeReward"),
        (lambda env: gymnasium.make(TOY, goal=np.zeros(2)), "the argument goal=array"),
        (lambda env: gymnasium.make(TOY, goal=print), "the argument goal=<built-in"),
        (lambda env: gymnasium.make(TOY, goal="x" * 60_000), "60,2"),
    ],
)
def test_what_cannot_be_restored_is_refused_by_name(wrap, said):
    env = wrap(gymnasium.make(TOY))
    with pytest.raises(UserError, match="give the id of that as env_id") as caught:
        identity.write(env, TOY)
    assert said in str(caught.value) and repr(TOY) in str(caught.value)
    # The user says that another id makes all of it.
    assert identity.write(env, "mine:Whole-v0") == ""


def test_a_factory():
    found = identity.make(identity.exact("identity_env:Toy", kwargs='{"goal": 3}'))
    assert type(found).__name__ == "Toy" and found.goal == 3
    assert find_task("identity_env:Toy").horizon is None
    assert find_task(identity.exact("identity_env:Toy", max_episode_steps=9)).horizon == 9
    # A time limit counts without a spec that tells of it, and the shorter one is met first.
    assert find_task("identity_env:limited").horizon == 7
    assert find_task(identity.exact("identity_env:limited", max_episode_steps=9)).horizon == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no_such_module:Toy-v0", "No module named 'no_such_module'"),
        ("identity_env:number", "is not registered with Gymnasium"),
        ("identity_env:IdToy-v9", "is not registered with Gymnasium"),
        ("identity_env:print_nothing", "which is no gymnasium.Env"),
        (identity.exact(TOY, kwargs='{"gaol": 1}'), "unexpected keyword argument 'gaol'"),
        (identity.exact(TOY, kwargs='{"id": 1}'), "multiple values for argument 'id'"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(text, said):
    with pytest.raises(UserError) as caught:
        load_env(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert repr(identity.read(text).env_id) in str(caught.value)


@pytest.mark.parametrize("error", ["FileNotFoundError('model.xml')", "SystemExit(3)", "1 / 0"])
def test_whatever_a_constructor_raises(error, tmp_path):
    fault = f"raise {error}" if "(" in error else error
    text = MODULE.replace("self.goal, self.render_mode = goal, render_mode", fault)
    (tmp_path / "identity_env.py").write_text(text)
    with pytest.raises(BadEnvironment, match=r"'identity_env:IdToy-v0' could not be made \("):
        load_env(TOY)
    (tmp_path / "identity_env.py").write_text("def broken(:")
    sys.modules.pop("identity_env", None)
    with pytest.raises(BadEnvironment, match=r"could not be made \(SyntaxError: invalid syntax"):
        load_env(TOY)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        '{"id": 3}',
        '{"id": "E-v0", "kwargs": []}',
        '{"id": "E-v0", "max_episode_steps": "9"}',
        '{"id": "E-v0", "additional_wrappers": 3}',
        '{"id": "E-v0", "additional_wrappers": [{"name": "W"}]}',
        '{"id": "E-v0", "additional_wrappers": [{"name": 1, "entry_point": 2, "kwargs": {}}]}',
    ],
)
def test_a_damaged_text_is_one_sentence(text):
    if text.startswith("["):
        with pytest.raises(UserError, match=r"env_spec is '.*must be a JSON object"):
            identity.applies(text, "E-v0")
        return
    with pytest.raises(UserError, match="env_spec is") as caught:
        identity.read(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


# Nothing that only a file names is imported


def of_file(env_id="Hopper-v4", **parts):
    return json.dumps({"id": env_id, "entry_point": "evil:Env", **parts})


@pytest.fixture
def evil(tmp_path):
    """A module that tells when it is imported."""
    touch = f"Path({str(tmp_path / 'imported')!r}).touch()"
    text = f"from identity_env import *\nfrom pathlib import Path\n{touch}\n"
    (tmp_path / "evil.py").write_text(text)
    yield tmp_path / "imported"
    sys.modules.pop("evil", None)


def wrapper(entry_point, name="Times", **arguments):
    return {"name": name, "entry_point": entry_point, "kwargs": arguments}


def test_a_files_entry_points_are_not_read(untrusting, evil):
    found = identity.make(of_file(vector_entry_point="evil:V", kwargs={"healthy_reward": 5}))
    assert type(found.unwrapped).__name__ == "HopperEnv"
    assert found.unwrapped._healthy_reward == 5
    for text in (
        of_file("evil:IdToy-v0"),
        of_file(additional_wrappers=[wrapper("evil:Times")]),
        of_file(additional_wrappers=[wrapper("evil:Times", "TimeLimit")]),
        of_file(additional_wrappers=[wrapper(":Times")]),
        of_file(additional_wrappers=[wrapper("evil:RecordVideo2", "RecordVideo2")]),
        of_file(additional_wrappers=[wrapper("gymnasium.wrappers.rendering:RecordVideo", "X")]),
    ):
        with pytest.raises(UserError, match=r"is code that (a|only a) file names.*trust-modules"):
            identity.make(text)
    assert not evil.exists()


def test_trusted_wrappers_are_imported(untrusting, evil):
    text = of_file(additional_wrappers=[wrapper("evil:Times", factor=4.0)])
    registry.trust("*")
    assert identity.make(text).factor == 4.0 and evil.exists()
    text = of_file(additional_wrappers=[wrapper("evil:number", "number")])
    with pytest.raises(UserError, match="'evil:number', which cannot be restored"):
        identity.make(text)
    # Those that only watch are left out, so no file decides where pictures are written.
    video = wrapper("gymnasium.wrappers.rendering:RecordVideo", "RecordVideo", video_folder="/x")
    assert isinstance(
        identity.make(of_file(additional_wrappers=[video])), gymnasium.wrappers.TimeLimit
    )
