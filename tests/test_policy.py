"""NumPy policies: equal to the networks they came from, and to themselves after a file."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from stratdiff.agents.networks import GaussianPolicy, SquashedGaussianPolicy, numpy_policy
from stratdiff.errors import UserError
from stratdiff.policy import Policy

OBS, ACT, STATES = 3, 2, 50
MEAN = np.array([1.0, -2.0, 30.0], np.float32)
STD = np.array([0.5, 3.0, 10.0], np.float32)
KINDS = {"squashed": SquashedGaussianPolicy, "gaussian": GaussianPolicy}


def make_actor(kind, seed=0, hidden=(8, 8)):
    """A network whose weights are all of order one, so that some standard deviations are cut."""
    rng = np.random.default_rng(seed)
    template = KINDS[kind](OBS, ACT, hidden, jax.random.key(0))
    actor = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.7, x.shape), x.dtype), template)
    if kind == "gaussian":
        actor = eqx.tree_at(lambda a: a.log_std, actor, jnp.array([-7.0, 0.3 - seed]))
    return actor


def make_states(*shape):
    return MEAN + STD * np.random.default_rng(7).normal(size=(*shape, OBS))


def normalised(obs):
    return jnp.asarray((obs - MEAN) / STD, jnp.float32)


def same(a, b):
    assert (a.kind, a.metadata, len(a.layers)) == (b.kind, b.metadata, len(b.layers))
    arrays = [[p.obs_mean, p.obs_std, *sum(p.layers, ()), p.log_std] for p in (a, b)]
    for x, y in zip(*arrays, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_equal_the_network(kind):
    actor, obs = make_actor(kind), make_states(STATES)
    policy = numpy_policy(actor, MEAN, STD)
    assert (policy.kind, len(policy)) == (kind, 1)
    mode = policy.mode(obs[None])[0]
    np.testing.assert_allclose(mode, jax.jit(KINDS[kind].mode)(actor, normalised(obs)), atol=1e-5)
    assert mode.std() > 0.1
    key = jax.random.key(4)
    noise = np.array(jax.random.normal(key, (STATES, 1, ACT)))[None, :, 0]
    sample = policy.sample(obs[None], noise)[0]
    np.testing.assert_allclose(
        sample, jax.jit(KINDS[kind].sample)(actor, normalised(obs), key), atol=1e-5
    )
    assert np.abs(sample - mode).max() > 0.1
    assert np.abs(sample).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_actions_by_plain_matrices(kind):
    # Without any network class: one hidden layer, one state.
    rng = np.random.default_rng(0)
    out = 2 * ACT if kind == "squashed" else ACT
    w1, b1 = rng.normal(size=(OBS, 4)), rng.normal(size=4)
    w2, b2 = 0.3 * rng.normal(size=(4, out)), rng.normal(size=out)
    layers = [tuple(np.float32(x)[None] for x in pair) for pair in ((w1, b1), (w2, b2))]
    log_std = None if kind == "squashed" else np.array([[0.2, -0.4]], np.float32)
    policy = Policy(kind, layers, MEAN, STD, log_std)
    obs, noise = make_states(), rng.normal(size=ACT)
    hidden = np.maximum((obs - MEAN) / STD @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(policy(obs), np.tanh(hidden[:ACT]), atol=1e-5)
    if kind == "squashed":
        expected = np.tanh(hidden[:ACT] + np.exp(hidden[ACT:]) * noise)
    else:
        expected = np.clip(np.tanh(hidden) + np.exp([0.2, -0.4]) * noise, -1, 1)
    found = policy.sample(obs[None, None], noise[None, None])[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_several_policies_act_for_themselves(kind):
    actors = [make_actor(kind, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *actors)
    policy = numpy_policy(stacked, MEAN, STD, {"score": 1.0})
    assert len(policy) == 3
    obs = make_states(3, STATES)
    noise = np.random.default_rng(1).normal(size=(3, STATES, ACT))
    for i, actor in enumerate(actors):
        alone = numpy_policy(actor, MEAN, STD)
        one = slice(i, i + 1)
        for found, expected in (
            (policy.mode(obs)[one], alone.mode(obs[one])),
            (policy[one].mode(obs[one]), alone.mode(obs[one])),
            (policy.sample(obs, noise)[one], alone.sample(obs[one], noise[one])),
            (policy[one].sample(obs[one], noise[one]), alone.sample(obs[one], noise[one])),
        ):
            np.testing.assert_allclose(found, expected, atol=1e-6)
        assert policy[one].metadata == {"score": 1.0}
    np.testing.assert_allclose(policy(obs[1, 0]), policy.mode(obs[[1, 1, 1]])[0, 0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    actors = [make_actor(kind, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *actors)
    policy = numpy_policy(stacked, MEAN, STD, {"env": "Hopper-v4", "scores": [1.5, 2.0]})
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    assert list(tmp_path.iterdir()) == [path]
    same(Policy.load(path), policy)
    # Replaced, not appended to.
    policy[:1].save(str(path))
    same(Policy.load(str(path)), policy[:1])


def test_more_than_ten_layers_keep_their_order(tmp_path):
    policy = numpy_policy(make_actor("squashed", hidden=(4,) * 11), MEAN, STD)
    policy.save(tmp_path / "deep.safetensors")
    same(Policy.load(tmp_path / "deep.safetensors"), policy)


# Files that hold no policy


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        Policy.load(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def good_file(path):
    """(tensors, metadata) of a policy file that loads."""
    tensors = {
        "obs_mean": MEAN,
        "obs_std": STD,
        "layer0.weight": np.zeros((1, OBS, ACT), np.float32),
        "layer0.bias": np.zeros((1, ACT), np.float32),
        "log_std": np.zeros((1, ACT), np.float32),
    }
    metadata = {"kind": "gaussian", "about": "{}"}
    save_file(tensors, path, metadata)
    assert len(Policy.load(path)) == 1
    return tensors, metadata


def test_missing_file(tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\0\0\0\0\0\0\0{}      "])
def test_not_a_policy(tmp_path, content):
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    refused(path, "not a policy" if content.endswith(b" ") else "could not be read as safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "obs_mean",
        "obs_std",
        "layer0.bias",
        "layer0.weight",
        "log_std",
    ],
)
def test_tensor_missing(tmp_path, name):
    path = tmp_path / "some.safetensors"
    tensors, metadata = good_file(path)
    del tensors[name]
    save_file(tensors, path, metadata)
    refused(path, name)


@pytest.mark.parametrize(
    "change",
    [
        {"layer0.weight": None, "layer0.bias": None},
        {"layer0.weight": np.zeros((OBS, ACT), np.float32)},
        {"layer0.weight": np.zeros((1, OBS + 2, ACT), np.float32)},
        {"obs_std": np.zeros((OBS,), np.float32)},
    ],
    ids=["no-layers", "no-policy-axis", "other-state-size", "zero-std"],
)
def test_tensors_that_do_not_fit(tmp_path, change):
    path = tmp_path / "some.safetensors"
    tensors, metadata = good_file(path)
    changed = {k: v for k, v in (tensors | change).items() if v is not None}
    save_file(changed, path, metadata)
    refused(path, "not a policy")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": None},
        {"kind": "linear"},
        {"about": "{"},
    ],
)
def test_metadata_wrong(tmp_path, change):
    path = tmp_path / "some.safetensors"
    tensors, metadata = good_file(path)
    changed = {k: v for k, v in (metadata | change).items() if v is not None}
    save_file(tensors, path, changed)
    refused(path, next(iter(change)))


def test_the_same_policy_has_the_same_bytes(tmp_path):
    # The library's own order of metadata changes from one file to the next.
    about = {"environment": "Größe\x1f-v0", "seeds": [0], "note": '"'}
    policy = numpy_policy(make_actor("gaussian"), MEAN, STD, about)
    found = set()
    for i in range(12):
        path = tmp_path / f"{i}.safetensors"
        policy.save(path)
        found.add(path.read_bytes())
    assert len(found) == 1
    assert Policy.load(path).metadata == about
    same(Policy.load(path), policy)
