"""The guard: nothing of ours is handed out, what comes back is cast by rule or refused."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from stratdiff.envs.guard import Guard, finite
from stratdiff.errors import BadEnvironment, UserError
from stratdiff.tasks import make_env, wrap_env


class Toy(gymnasium.Env):
    """Moves by the action; what a test changes is an attribute."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    first, end = np.zeros(3), (1.5, False, False, {})

    def __init__(self, **changes):
        self.taken = []
        vars(self).update(changes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first, {}

    def step(self, action):
        self.taken.append(action)
        return (np.array([*action, 0.5]), *self.end)


def stepped(**changes):
    """What a step in the guarded environment gives."""
    env = wrap_env(Toy(**changes))
    env.reset(seed=0)
    return env.step(np.array([0.25, -0.5], np.float32))


def refused(call, *words):
    with pytest.raises(BadEnvironment) as caught:
        call()
    message = str(caught.value)
    for word in (*words, "<Toy instance>"):
        assert word in message, (word, message)
    assert "\n" not in message and message.endswith(".")
    return message


def test_an_environment_may_write_to_the_action_it_is_given():
    class Halves(Toy):
        def step(self, action):
            action *= 0.5
            return super().step(action)

    env, action = wrap_env(Halves()), np.array([0.8, -0.8], np.float32)
    env.reset()
    np.testing.assert_array_equal(env.step(action)[0], np.float32([0.4, -0.4, 0.5]))
    np.testing.assert_array_equal(action, np.float32([0.8, -0.8]))


def test_an_environment_may_use_its_arrays_again():
    class Again(Toy):
        state = np.zeros(3)

        def reset(self, **_):
            self.state[:] = 0
            return self.state, {}

        def step(self, action):
            self.state += 1
            return self.state, 0.0, False, False, {}

    env = wrap_env(Again())
    first = env.reset()[0]
    second = env.step(np.zeros(2, np.float32))[0]
    second[0] = 7  # nor is ours the environment's
    third = env.step(np.zeros(2, np.float32))[0]
    assert (first.tolist(), second.tolist(), third.tolist()) == ([0] * 3, [7, 1, 1], [2] * 3)


@pytest.mark.parametrize("first", [np.zeros(3, int), [0, 0, 0], np.zeros(3, np.float16)])
def test_observations_are_float64_whatever_the_first_one_is(first):
    env = wrap_env(Toy(first=first))
    obs, info = env.reset()
    assert obs.dtype == np.float64 and obs.tolist() == [0, 0, 0] and info == {}
    assert env.step(np.array([0.25, 0.75], np.float32))[0].tolist() == [0.25, 0.75, 0.5]
    assert env.observation_space.dtype == np.float64


class TorchLike:
    """One number that knows how to become an array, as tensors do."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.5], np.float32)


class Number:
    def __float__(self):
        return 1.5


@pytest.mark.parametrize(
    "reward",
    [1.5, np.float32(1.5), np.array(1.5), np.array([1.5]), [[1.5]], TorchLike(), Number()],
    ids=lambda x: type(x).__name__,
)
def test_one_number_is_a_reward(reward):
    _, found, *_ = stepped(end=(reward, False, False, {}))
    assert type(found) is float and found == 1.5


@pytest.mark.parametrize("flag", [True, np.True_, 1, np.array([True]), np.array(1.0)])
def test_one_boolean_is_a_flag(flag):
    _, _, terminated, truncated, _ = stepped(end=(0, flag, np.False_, "no dictionary"))
    assert terminated is True and truncated is False


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ((np.zeros(2), False, False, {}), ["a reward array([0., 0.]), which is no single number"]),
        (("fast", False, False, {}), ["a reward 'fast', which is no single number"]),
        ((None, False, False, {}), ["a reward None"]),
        ((1j, False, False, {}), ["a reward 1j"]),
        ((0.0, "no", False, {}), ["a terminated flag 'no'"]),
        ((0.0, False, 2, {}), ["a truncated flag 2, which is not true or false"]),
        ((0.0, [True, False], False, {}), ["a terminated flag [True, False]"]),
        ((0.0, False, np.nan, {}), ["a truncated flag nan"]),
        ((0.0, False, {}), ["returned 4 values", "GymV21CompatibilityV0 wraps one of old Gym"]),
        ((), ["returned 1 values"]),
    ],
)
def test_what_is_no_step_is_one_sentence(end, words):
    refused(lambda: stepped(end=end), *words, "in step 1 of an episode")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (np.zeros(4), ["an observation of shape (4,), not (3,)"]),
        (np.zeros((1, 3)), ["shape (1, 3), not (3,)"]),
        (0.0, ["shape (), not (3,)"]),  # never broadcast
        (["a", "b", "c"], ["gave the observation ['a', 'b', 'c'], which does not fit Box"]),
        ([[1], [2, 3], 4], ["which does not fit Box"]),
        (None, ["shape (), not (3,)"]),
    ],
)
def test_what_is_no_observation_is_one_sentence(first, words):
    refused(wrap_env(Toy(first=first)).reset, *words, "at reset")


def test_the_shape_is_checked_at_every_step():
    env = Toy()
    guarded = wrap_env(env)
    guarded.reset()
    guarded.step(np.zeros(2, np.float32))
    env.step = lambda action: (np.zeros(1), *env.end)
    said = "gave an observation of shape (1,), not (3,), in step 2 of an episode"
    refused(lambda: guarded.step(np.zeros(2, np.float32)), said)


def test_dictionaries_are_flattened_part_by_part():
    space = Dict(
        z=Box(-9, 9, (2, 2), np.float32), a=Discrete(3), n=Dict(i=Box(0, 9, (1,), np.int64))
    )
    first = {"z": [[1, 2], [3, 4]], "a": 2, "n": {"i": [0.5]}}  # the type says int, 0.5 is kept
    env = wrap_env(Toy(observation_space=space, first=first))
    assert env.reset()[0].tolist() == [1, 2, 3, 4, 0, 0, 1, 0.5]
    assert env.observation_space.shape == (8,)
    for wrong, words in (
        ({"z": [[1, 2], [3, 4]], "a": 2}, "does not fit Dict"),
        (first | {"z": [1, 2, 3, 4]}, "shape (4,), not (2, 2)"),
        (np.zeros(8), "does not fit Dict"),
    ):
        refused(wrap_env(Toy(observation_space=space, first=wrong)).reset, words)


# Actions


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.8), (0.3, 0.7), (-1e-3, 1e6), (-1, 1)])
def test_actions_are_within_the_bounds_as_the_environment_sees_them(low, high, dtype):
    env = Toy(action_space=Box(low, high, (2,), dtype))
    guarded = wrap_env(env)
    guarded.reset()
    rng = np.random.default_rng(0)
    given = [-1, 1, -0.99999994, 0.99999994, *rng.uniform(-1, 1, 200)]
    for x in given:
        guarded.step(np.full(2, x, np.float32))
        assert env.taken[-1].dtype == dtype and env.action_space.contains(env.taken[-1])
    exact = low + (np.float64(np.float32(given)) + 1) / 2 * (high - low)
    found = np.array(env.taken, np.float64)[:, 0]
    # A few roundings of numbers of the size of the bounds.
    np.testing.assert_allclose(found, exact, atol=8 * np.finfo(dtype).eps * max(-low, high))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Discrete(4), r"discrete actions are not supported; a flat Box"),
        (gymnasium.spaces.MultiDiscrete([2, 3]), "discrete actions are not supported"),
        (gymnasium.spaces.MultiBinary(2), "a flat Box of real numbers is needed"),
        (Box(-1, 1, (2, 2), np.float32), "a flat Box of real numbers is needed"),
        (Box(0, 9, (2,), np.int64), "a flat Box of real numbers is needed"),
        (Box(-np.inf, np.inf, (2,), np.float32), "bounds that are finite and not equal"),
        (Box(np.float32([0, -1]), np.float32([np.inf, 1])), "bounds that are finite"),
    ],
)
def test_actions_that_cannot_be_scaled(space, said):
    with pytest.raises(UserError, match=said):
        wrap_env(Toy(action_space=space))


# Failures


class Boom(Toy):
    where = "step"
    error: BaseException = ValueError("no such joint\nthe last line")

    def reset(self, **options):
        if self.where == "reset":
            raise self.error
        return super().reset(**options)

    def step(self, action):
        if self.where == "step" and len(self.taken) == 2:
            raise self.error
        return super().step(action)

    def close(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such joint\nthe last line"), "(ValueError: the last line)"),
        (AssertionError(), "(AssertionError)"),
        (BrokenPipeError(32, "Broken pipe"), "(BrokenPipeError: [Errno 32] Broken pipe)"),
        (SystemExit(3), "(SystemExit: 3)"),
        (UserWarning("as an error"), "(UserWarning: as an error)"),
    ],
)
def test_whatever_an_environment_raises_is_one_sentence(error, said):
    env = wrap_env(Boom(error=error))
    with pytest.raises(BadEnvironment) as caught:
        for _ in range(2):  # the steps are counted in each episode
            env.reset()
            env.step(np.zeros(2, np.float32))
        env.step(np.zeros(2, np.float32))
    assert f"failed {said} in step 2 of an episode" in str(caught.value)
    assert caught.value.__cause__ is error
    with pytest.raises(BadEnvironment, match="at reset"):
        wrap_env(Boom(error=error, where="reset")).reset()
    env.close()  # what was done with it is done


def test_control_c_is_no_failure_of_the_environment():
    with pytest.raises(KeyboardInterrupt):
        wrap_env(Boom(error=KeyboardInterrupt(), where="reset")).reset()


class OldGym(gymnasium.Env):
    """Behind the wrappers of `gymnasium.make`, which fail first."""

    observation_space, action_space = Toy.observation_space, Toy.action_space

    def reset(self):
        return np.zeros(3)

    def step(self, action):
        return np.zeros(3), 0.0, False, {}


class OldStep(OldGym):
    def reset(self, seed=None, options=None):
        return np.zeros(3), {}


class BareReset(OldStep):
    def reset(self, seed=None, options=None):
        return np.zeros(3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [OldGym, OldStep, BareReset])
@pytest.mark.parametrize("registered", [True, False])
def test_old_gym_is_told_how_to_wrap_it(kind, registered):
    gymnasium.register("Old-v0", kind, max_episode_steps=5)
    try:
        env = make_env("Old-v0" if registered else kind)
        with pytest.raises(BadEnvironment, match="let reset take seed and options and return"):
            env.try_out()
    finally:
        del gymnasium.registry["Old-v0"]


# Trying out


class Counts(Toy):
    resets = 0

    def reset(self, **options):
        self.resets += 1
        return super().reset(**options)


def test_the_trial_is_always_the_same_and_resets_what_ends():
    found = []
    for end in (False, True, False):
        env = Counts(end=(0.0, end, False, {}))
        wrap_env(env).try_out()
        found.append((np.array(env.taken), env.resets))
    np.testing.assert_array_equal(found[0][0], found[2][0])
    assert [resets for _, resets in found] == [1, 4, 1]
    assert np.abs(found[0][0]).max() <= 1 and np.ptp(found[0][0]) > 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first": np.array([0, np.nan, 0])}, "an observation that is NaN or infinite at reset"),
        ({"end": (np.inf, False, False, {})}, "a reward that is NaN or infinite in step 1"),
        ({"end": (1e39, False, False, {})}, "a reward that is NaN or infinite in step 1"),
    ],
)
def test_the_trial_refuses_what_is_not_finite(changes, said):
    refused(wrap_env(Toy(**changes)).try_out, said)


def test_finite_means_in_float32():
    assert finite(0.0) and finite(np.float32([1, -3e38])) and finite(np.zeros(0))
    assert not any(map(finite, (np.nan, -np.inf, 1e39, np.array([0, 1e300]))))


def test_a_guard_is_not_guarded_again():
    env = make_env(Toy)
    assert isinstance(env, Guard) and make_env(env) is env
