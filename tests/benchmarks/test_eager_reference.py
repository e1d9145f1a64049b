"""The eager PyTorch peer computes what our JAX code computes, from the same weights and noise."""

import pytest

torch = pytest.importorskip("torch")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from torch import nn

from benchmarks import eager_reference as eager
from stratdiff.agents.iql import IQL, IQLConfig
from stratdiff.agents.networks import GaussianPolicy
from stratdiff.data.batch import Transition
from stratdiff.diffusion.behaviour import BehaviourConfig, BehaviourModel
from stratdiff.diffusion.energy import (
    EnergyConfig,
    EnergyModel,
    EnergyNet,
    EnergyState,
    contrastive_loss,
)
from stratdiff.diffusion.sampler import guided
from stratdiff.diffusion.unet import DenseUNet
from stratdiff.nn import FourierFeatures, Linear
from stratdiff.presets import PRESETS
from stratdiff.scores.guided import GuidedOptions, guided_alignment
from stratdiff.splits import RatioOptions, conservative_first, lowest, offline_like_count

pytestmark = pytest.mark.slow

# Tests run side by side, and threads that wait for each other make them slow.
torch.set_num_threads(1)

OBS, ACT, BATCH, SUPPORT, K = 17, 6, 256, 16, 128
ROWS = 300
# A high learning rate: a network used before its step in place of after it then shows.
RATE = 1e-2
# The reference is of the method as the paper has it.
PAPER = PRESETS["paper"]["iql"]


def tensor(x):
    return torch.tensor(np.asarray(x, np.float32))


def close(ours, theirs, **tolerance):
    np.testing.assert_allclose(theirs.detach().numpy(), np.asarray(ours), **tolerance)


def parts(tree, kind):
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind))
    return [x for x in leaves if isinstance(x, kind)]


def pairs(module, tree):
    """(tensor, our array in torch's layout) of every trained weight; both list them in one order.

    A list of modules is an ensemble, whose weights we stack.
    """
    if isinstance(module, nn.ModuleList):
        return [
            pair
            for i, member in enumerate(module)
            for pair in pairs(member, jax.tree.map(lambda x, i=i: x[i], tree))
        ]
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    out = []
    for theirs, ours in zip(linears, parts(tree, Linear), strict=True):
        out += [(theirs.weight, ours.weight.T), (theirs.bias, ours.bias)]
    if isinstance(tree, GaussianPolicy):
        out.append((module.log_std, tree.log_std))
    assert len(out) == len(list(module.parameters()))
    return out


@torch.no_grad()
def load(module, tree):
    """Copy our weights."""
    for theirs, ours in pairs(module, tree):
        assert theirs.shape == ours.shape
        theirs.copy_(tensor(ours))
    features = [m for m in module.modules() if isinstance(m, eager.FourierFeatures)]
    for theirs, ours in zip(features, parts(tree, FourierFeatures), strict=True):
        theirs.frequencies.copy_(tensor(ours.frequencies))


def adam(opt):
    """The moments in an optimiser's state; what else is in it (a rate) has no state."""
    (moments,) = parts(opt, optax.ScaleByAdamState)
    return moments


def load_adam(optimiser, module, opt):
    opt = adam(opt)
    for (p, mu), (_, nu) in zip(pairs(module, opt.mu), pairs(module, opt.nu), strict=True):
        moments = {"exp_avg": tensor(mu), "exp_avg_sq": tensor(nu)}
        optimiser.state[p] = {"step": torch.tensor(float(opt.count)), **moments}


def same_weights(module, tree, before):
    """The new weights agree within a hundredth of an Adam step, and all had moved."""
    tolerance = 1e-2 * RATE
    for (new, ours), (_, old) in zip(pairs(module, tree), pairs(module, before), strict=True):
        close(ours, new, rtol=0, atol=tolerance)
        assert np.abs(np.asarray(ours) - np.asarray(old)).max() > 2 * tolerance


def same_gradients(optimiser, module, opt, before):
    """What the first moments took in agrees within 1e-4 of the largest gradient of the network."""
    ours, theirs, opt, before = [], [], adam(opt), adam(before)
    for (p, new), (_, old) in zip(pairs(module, opt.mu), pairs(module, before.mu), strict=True):
        ours.append(np.ravel(new - 0.9 * old) / 0.1)
        theirs.append((optimiser.state[p]["exp_avg"] - 0.9 * tensor(old)).ravel() / 0.1)
    if isinstance(module, eager.EnergyNet):
        # The loss does not depend on the last bias: a softmax forgets it. Its gradient is zero on
        # both sides but for rounding.
        assert max(np.abs(ours.pop()).max(), theirs.pop().abs().max()) < 1e-6
    ours, theirs = np.concatenate(ours), torch.cat(theirs)
    close(ours, theirs, rtol=0, atol=1e-4 * np.abs(ours).max())


def shaken(tree, rng, scale=0.05):
    """Weights moved at random: fresh Q-functions are nearly constant and biases zero."""
    return jax.tree.map(lambda x: x + (scale * rng.normal(size=x.shape)).astype(np.float32), tree)


def used_adam(opt, params, rng, scale):
    """`opt` with moments as after some updates with gradients of size `scale`.

    From zero moments Adam's first step is the gradient's sign, so where a gradient is zero but for
    rounding (as that of the energy's last bias) the two sides would differ by twice the learning
    rate. After some updates the step is smooth in the gradient.
    """

    def moments(make):
        tree = jax.tree.map(lambda x: jnp.asarray(make(x).astype(np.float32)), params)
        # Frequencies are constants, for which the optimiser sees no gradient ever.
        for features in parts(params, FourierFeatures):
            zero = jnp.zeros_like(features.frequencies)
            tree = eqx.tree_at(lambda t: t.time_features.frequencies, tree, zero)
        return tree

    mu = moments(lambda x: scale * rng.normal(size=x.shape))
    nu = moments(lambda x: np.square(scale * rng.uniform(1, 3, x.shape)))
    used = optax.ScaleByAdamState(count=jnp.asarray(10, jnp.int32), mu=mu, nu=nu)
    return eqx.tree_at(adam, opt, used)


def transitions(rng, rows):
    obs = rng.normal(size=(rows, OBS))
    return (
        obs,
        rng.uniform(-1, 1, (rows, ACT)),
        rng.normal(size=rows),
        obs + 0.1 * rng.normal(size=obs.shape),
        rng.random(rows) < 0.1,
    )


def ours_of(batch):
    floats = [jnp.asarray(x, jnp.float32) for x in batch[:4]]
    return Transition(*floats, jnp.asarray(batch[4]), jnp.full(len(batch[4]), -jnp.inf))


def theirs_of(batch):
    return eager.Transitions(*map(tensor, batch))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def learner(rng):
    torch.manual_seed(0)

    def data():
        return theirs_of(transitions(rng, ROWS)), tensor(rng.uniform(-1, 1, (ROWS, SUPPORT, ACT)))

    return eager.EagerStratDiff(data(), data(), eager.Config(learning_rate=RATE))


@pytest.fixture
def score_net(learner):
    net = DenseUNet(OBS, ACT, jax.random.key(0))
    load(learner.score_net, net)
    return net


@pytest.fixture
def energy_net(learner):
    net = EnergyNet(OBS, ACT, jax.random.key(1), EnergyConfig().hidden)
    load(learner.energy_net, net)
    return net


def test_defaults_are_ours():
    c, iql = eager.Config(), IQLConfig(**PAPER)
    energy, behaviour = EnergyConfig(), BehaviourConfig()
    assert c.hidden == iql.actor_hidden == iql.critic_hidden
    assert c.learning_rate == iql.learning_rate == energy.learning_rate
    assert (c.discount, c.polyak) == (iql.discount, iql.polyak)
    assert (c.expectile, c.online_expectile) == (iql.expectile, iql.online_expectile)
    assert c.advantage_temperature == iql.inverse_temperature
    assert c.max_target_actions == iql.max_target_actions
    assert c.energy_hidden == energy.hidden
    guided_options = GuidedOptions()
    assert c.inverse_temperature == guided_options.inverse_temperature
    assert c.guidance_scale == guided_options.guidance_scale
    assert offline_like_count(RatioOptions().rho, c.batch_size) == round(c.rho * c.batch_size)
    assert (c.unet_widths, c.solver_steps) == (behaviour.widths, behaviour.solver_steps)
    assert behaviour.solver == "multistep"


def test_networks(learner, score_net, energy_net, rng):
    obs = rng.normal(size=(BATCH, OBS)).astype(np.float32)
    noisy = rng.normal(size=(BATCH, ACT)).astype(np.float32)
    t = jnp.float32(0.3)
    theirs = learner.score_net(tensor(noisy), tensor(t), tensor(obs))
    close(score_net(jnp.asarray(noisy), t, jnp.asarray(obs)), theirs, rtol=1e-4, atol=1e-5)

    ours, gradient = jax.vjp(lambda a: energy_net(jnp.asarray(obs), a, t), jnp.asarray(noisy))
    leaf = tensor(noisy).requires_grad_()
    theirs = learner.energy_net(tensor(obs), leaf, tensor(t))
    close(ours, theirs, rtol=1e-4, atol=1e-5)
    theirs = torch.autograd.grad(theirs.sum(), leaf)[0]
    close(gradient(jnp.ones(BATCH))[0], theirs, rtol=1e-4, atol=1e-6)


def test_guided_actions(learner, score_net, energy_net, rng):
    obs, noise = rng.normal(size=(BATCH, OBS)), rng.normal(size=(BATCH, ACT))
    model = BehaviourModel(BehaviourConfig(precision="float32"), OBS, ACT)

    @jax.jit
    def sample(obs, noise):
        score = guided(model.score(score_net, obs), lambda a, t: energy_net(obs, a, t), 20.0)
        return model.sample(score, noise)

    ours = sample(*(jnp.asarray(x, jnp.float32) for x in (obs, noise)))
    nets = (learner.score_net, learner.energy_net, tensor(obs), tensor(noise))
    theirs, unguided = (eager.guided_actions(*nets, guidance_scale=w) for w in (20.0, 0.0))
    assert np.abs(ours).min() < 0.5  # not all at the bounds
    assert (theirs - unguided).abs().max() > 0.1  # the guidance counts
    close(ours, theirs, rtol=0, atol=2e-4)


def test_alignment_and_split(rng):
    action, other = rng.uniform(-1, 1, (2, BATCH, ACT)).astype(np.float32)
    ours = guided_alignment(jnp.asarray(action), jnp.asarray(other))
    close(ours, eager.alignment(tensor(action), tensor(other)), rtol=1e-5)
    # With ties. Ours keeps the order of rows within a stratum, the plain sort does not.
    ours = jnp.round(ours / 20)
    assert len(np.unique(ours)) < BATCH
    order = eager.stratified_order(tensor(ours)).numpy()
    split = np.asarray(conservative_first(lowest(ours, K)))
    np.testing.assert_array_equal(np.sort(order[:K]), split[:K])
    np.testing.assert_array_equal(np.sort(order[K:]), split[K:])


def iql_state(agent, rng, scale=1e-2):
    state = agent.init(jax.random.key(2))
    names = ("actor", "value", "critic", "target_critic")
    nets = [shaken(getattr(state, n), rng) for n in names]
    fresh = (state.actor_opt, state.value_opt, state.critic_opt)
    opts = [used_adam(opt, net, rng, scale) for opt, net in zip(fresh, nets[:3], strict=True)]
    return eqx.tree_at(
        lambda s: [getattr(s, n) for n in (*names, "actor_opt", "value_opt", "critic_opt")],
        state,
        nets + opts,
    )


def load_iql(learner, state):
    for name, net in (("actor", learner.actor), ("value", learner.value)):
        load(net, getattr(state, name))
    load(learner.critics, state.critic)
    load(learner.target_critics, state.target_critic)
    load_adam(learner.actor_opt, learner.actor, state.actor_opt)
    load_adam(learner.value_opt, learner.value, state.value_opt)
    load_adam(learner.critic_opt, learner.critics, state.critic_opt)


def test_energy_update(learner, energy_net, rng):
    states = 64
    model = EnergyModel(EnergyConfig(learning_rate=RATE), OBS, ACT)
    agent = IQL(IQLConfig(learning_rate=RATE, **PAPER), OBS, ACT)
    iql = iql_state(agent, rng)
    load_iql(learner, iql)
    fresh = model.init(jax.random.key(1))
    state = EnergyState(fresh.net, used_adam(fresh.opt, energy_net, rng, 1e-4))
    load_adam(learner.energy_opt, learner.energy_net, state.opt)
    obs = jnp.asarray(rng.normal(size=(states, OBS)), jnp.float32)
    support = jnp.asarray(rng.uniform(-1, 1, (states, SUPPORT, ACT)), jnp.float32)
    # The draws of EnergyModel.update.
    key = jax.random.key(3)
    t_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(t_key, (states, 1), minval=model.sde.t_min, maxval=1.0)
    noise = jax.random.normal(noise_key, support.shape)

    @jax.jit
    def update(state, obs, support):
        q = agent.q(iql, obs[:, None], support)
        noisy = model.sde.perturb(support, t, noise)
        loss = contrastive_loss(state.net(obs[:, None], noisy, t), 3.0 * q).mean()
        return model.update(state, obs, support, 3.0 * q, key)[0], q, loss

    new, q, loss = update(state, obs, support)
    assert q.std() > 0.1
    args = [tensor(x) for x in (obs, support, 3.0 * q, t, noise)]
    close(loss, eager.contrastive_loss(learner.energy_net, *args), rtol=1e-5)
    close(q, learner.target_q(args[0][:, None], args[1]), rtol=1e-4, atol=1e-5)
    learner.energy_update(args[0], args[1], args[3], args[4])
    same_gradients(learner.energy_opt, learner.energy_net, new.opt, state.opt)
    same_weights(learner.energy_net, new.net, state.net)


def test_iql_update(learner, rng):
    agent = IQL(IQLConfig(learning_rate=RATE, **PAPER), OBS, ACT)
    state = iql_state(agent, rng)
    load_iql(learner, state)
    batch, key = transitions(rng, BATCH), jax.random.key(4)
    new, metrics = jax.jit(lambda s, b: agent.update(s, b, key, K))(state, ours_of(batch))
    assert 0.1 < metrics["advantage_weight_mean"] < 50
    # The candidates' noise inside IQL.update.
    noise = jax.random.normal(key, (BATCH - K, IQLConfig().max_target_actions, ACT))
    learner.iql_update(theirs_of(batch), tensor(noise))
    same_gradients(learner.value_opt, learner.value, new.value_opt, state.value_opt)
    same_gradients(learner.actor_opt, learner.actor, new.actor_opt, state.actor_opt)
    same_gradients(learner.critic_opt, learner.critics, new.critic_opt, state.critic_opt)
    same_weights(learner.value, new.value, state.value)
    same_weights(learner.actor, new.actor, state.actor)
    same_weights(learner.critics, new.critic, state.critic)
    same_weights(learner.target_critics, new.target_critic, state.target_critic)


def test_update_learns(learner):
    trained = {n: getattr(learner, n) for n in ("energy_net", "actor", "value", "critics")}
    trained["target_critics"] = learner.target_critics
    before = {n: [p.clone() for p in net.parameters()] for n, net in trained.items()}
    frozen = [p.clone() for p in learner.score_net.parameters()]
    for _ in range(2):
        learner.update()
    for name, net in trained.items():
        for old, new in zip(before[name], net.parameters(), strict=True):
            assert torch.isfinite(new).all()
            assert not torch.equal(old, new)
    for old, new in zip(frozen, learner.score_net.parameters(), strict=True):
        assert torch.equal(old, new)
    batch, support = learner.sample_batch()
    assert len(batch.reward) == len(support) == BATCH
    half = BATCH // 2
    assert torch.isin(batch.reward[:half], learner.offline[0].reward).all()
    assert torch.isin(batch.reward[half:], learner.online[0].reward).all()
