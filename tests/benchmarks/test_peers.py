"""d3rlpy's bases compute what ours do, in float64, with the same weights and noise.

Held are the losses of 20 updates and all weights after them. d3rlpy's losses, gradients and
optimisers are its own, and so are its networks but for one head; what is called in which order is
ours. One more update is in d3rlpy's order: what the order has no part in agrees after it, and
nothing else does.

Where they differ, with the lines of d3rlpy 2.8.1 in `algos/qlearning/torch`:

IQL
- The target of Q takes V before its step (`ddpg_impl.py:103-105`, `iql_impl.py:83-92`), ours after.
- log std = -5 + 7 sigmoid(p) (`../../../models/torch/policies.py:135-139`). Ours is p, cut to
  [-5, 2], and stands in its place here.

Cal-QL
- Critics, temperature and actor step in turn, each with what the one before has become
  (`ddpg_impl.py:144-146`, `sac_impl.py:89-99`). Ours all step from the old state.
- A tuned multiplier steps before the critics' loss (`cql_impl.py:94-99`), ours after.
- The target without `max_q_backup` is at the policy's mean action (`cql_impl.py:223-228`), ours at
  a sample; only the target with it is compared.

SAC
- The temperature steps before the actor's loss (`sac_impl.py:89-96`), ours after.

ReBRAC
- The actor's target follows the actor from after its step (`td3_impl.py:inner_update`), ours, as
  the authors', the actor from before it.
- Layer normalisation adds 1e-5 to the variance; ours adds 1e-6, which d3rlpy is given here.

SAC and Cal-QL
- The loss of the temperature is linear in the temperature (`sac_impl.py:111`), ours in its
  logarithm. A hook divides d3rlpy's gradient by the temperature here.
- Mean and log std are two layers (`../../../models/torch/policies.py:124-129`), ours one.
"""

import contextlib
import copy
import dataclasses
import math
from unittest import mock

import pytest

torch = pytest.importorskip("torch")
d3rlpy = pytest.importorskip("d3rlpy")

import jax
import jax.numpy as jnp
import numpy as np
from d3rlpy.models.torch.policies import ActionOutput
from d3rlpy.torch_utility import TorchMiniBatch

from benchmarks import peers
from stratdiff.agents.calql import CalQL, CalQLConfig
from stratdiff.agents.iql import IQL, MAX_WEIGHT, IQLConfig
from stratdiff.agents.networks import CriticEnsemble, GaussianPolicy, SquashedGaussianPolicy
from stratdiff.agents.rebrac import ReBRAC, ReBRACConfig
from stratdiff.agents.sac import SAC, SACConfig
from stratdiff.data.batch import Transition
from stratdiff.nn import MLP

# Tests run side by side, and threads that wait for each other make them slow.
torch.set_num_threads(1)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # d3rlpy's own
]

UPDATES = 20
# A batch is more than one of our blocks of 32 rows, and no whole number of them.
OBS, ACT, BATCH, HIDDEN = 5, 3, 48, (16, 16)
# A high learning rate: a network used before its step in place of after it then shows.
RATE = 1e-2
EXACT = 1e-10
# d3rlpy adds the critics' losses up in a float32 (`q_functions/ensemble_q_function.py:91-108`),
# which leaves their gradients exact.
SUMMED = {"critic_loss": 2e-7, "td_loss": 2e-7}
NETS = {
    "actor": "policy",
    "target_actor": "targ_policy",
    "value": "value_func",
    "critic": "q_funcs",
    "target_critic": "targ_q_funcs",
    "log_temperature": "log_temp",
}


def weights(net):
    """Our arrays as d3rlpy has them: the members one by one, the two heads apart."""
    if isinstance(net, CriticEnsemble):
        members = [jax.tree.map(lambda x, i=i: x[i], net.members) for i in range(2)]
        return [w for member in members for w in weights(member)]
    if isinstance(net, SquashedGaussianPolicy):
        *hidden, weight, bias = weights(net.net)
        return [*hidden, weight[:ACT], bias[:ACT], weight[ACT:], bias[ACT:]]
    if isinstance(net, GaussianPolicy):
        return [net.log_std[None], *weights(net.net)]
    if isinstance(net, MLP):
        norms = [[norm.scale, norm.shift] for norm in net.norms] or [[] for _ in net.layers[1:]]
        layers = zip(net.layers, [*norms, []], strict=True)
        return [x for layer, norm in layers for x in (layer.weight.T, layer.bias, *norm)]
    return [net[None, None]]


def pairs(modules, state, name):
    """(d3rlpy's tensor, our array) of every weight of a network."""
    module, net = getattr(modules, NETS[name]), getattr(state, name)
    ours = weights(net)
    if isinstance(net, GaussianPolicy) and not hasattr(module, "_logstd"):
        ours = ours[1:]  # theirs is deterministic
    return zip(module.parameters(), map(np.array, ours), strict=True)


def distance(modules, state, name):
    """The largest difference of two weights."""
    return max(np.abs(p.detach().numpy() - w).max() for p, w in pairs(modules, state, name))


def start(agent, config, rng):
    """(our state, d3rlpy's algorithm with its weights)."""
    state = agent.init(jax.random.key(0))
    names = [name for name in NETS if hasattr(state, name)]
    # Fresh Q-functions are nearly constant and biases zero.
    shaken = {
        name: jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), getattr(state, name))
        for name in names
    }
    state = dataclasses.replace(state, **shaken)
    state = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, state)
    algo = config.create(device="cpu:0")
    algo.create_impl((OBS,), ACT)
    for module in vars(algo.impl._modules).values():
        if isinstance(module, torch.nn.Module):
            module.double()
    for name in names:
        for theirs, ours in pairs(algo.impl._modules, state, name):
            assert theirs.shape == ours.shape
            theirs.data = torch.tensor(ours)
        if name == "log_temperature":
            theirs.register_hook(lambda gradient, p=theirs: gradient / p.detach().exp())
    return state, algo.impl


def transitions(rng):
    """A batch, ours and d3rlpy's."""
    obs, next_obs = rng.normal(size=(2, BATCH, OBS))
    action, next_action = rng.uniform(-1, 1, (2, BATCH, ACT))
    reward, mc_return = rng.normal(size=(2, BATCH))
    terminal = rng.random(BATCH) < 0.1
    fields = obs, action, reward, next_obs, terminal, mc_return, next_action
    ours = Transition(*map(jnp.asarray, fields))

    def column(x):
        return torch.tensor(x.astype(float))[:, None]

    theirs = TorchMiniBatch(
        observations=torch.tensor(obs),
        actions=torch.tensor(action),
        rewards=column(reward),
        next_observations=torch.tensor(next_obs),
        next_actions=torch.tensor(next_action),
        returns_to_go=column(mc_return),
        terminals=column(terminal),
        intervals=column(np.ones(BATCH)),
        device="cpu:0",
    )
    return ours, theirs


def our_update(agent):
    """Our update with given draws, each (B, n, A), in the order of their use."""

    def update(state, batch, draws):
        left = list(draws)

        def drawn(key, shape, **bounds):
            assert left[0].shape == shape
            return left.pop(0)

        with mock.patch("jax.random.normal", drawn), mock.patch("jax.random.uniform", drawn):
            out = agent.update(state, batch, jax.random.key(0), BATCH)
        assert not left
        return out

    return jax.jit(update)


@contextlib.contextmanager
def drawn_by_torch(draws):
    """d3rlpy gets the same draws; its actions of a state are (n, B, A), uniform ones (B n, A)."""
    left = [torch.tensor(x) for x in draws]

    def normal(shape, dtype, device):
        return left.pop(0).transpose(0, 1).reshape(shape)

    def uniform(tensor, low, high):
        return left.pop(0).reshape(tensor.shape)

    with (
        mock.patch("torch.distributions.normal._standard_normal", normal),
        mock.patch.object(torch.Tensor, "uniform_", uniform),
        mock.patch("torch.randn", lambda shape, device: left.pop(0).reshape(shape)),
    ):
        yield
    assert not left


def compare(agent, config, in_our_order, draw, whatever_the_order):
    """20 updates in our order, then one in d3rlpy's; returns our metrics of all of them.

    `in_our_order(impl, batch)` updates d3rlpy's and returns its losses; `draw(rng)` makes the draws
    of an update; `whatever_the_order` names the networks on which the order has no bearing.
    """
    rng, seen = np.random.default_rng(0), []
    with jax.enable_x64(True):
        state, impl = start(agent, config, rng)
        names = [name for name in NETS if hasattr(state, name)]
        before = copy.deepcopy(impl._modules)
        update = our_update(agent)
        for i in range(UPDATES):
            (ours, theirs), draws = transitions(rng), draw(rng)
            state, metrics = update(state, ours, draws)
            with drawn_by_torch(draws):
                losses = in_our_order(impl, theirs)
            for name, loss in losses.items():
                rtol = SUMMED.get(name, EXACT)
                np.testing.assert_allclose(loss, metrics[name], rtol, err_msg=f"{name}, {i}")
            seen.append(metrics)
        for name in names:
            assert distance(impl._modules, state, name) < EXACT, name
            assert distance(before, state, name) > RATE, name

        (ours, theirs), draws = transitions(rng), draw(rng)
        state, _ = update(state, ours, draws)
        with drawn_by_torch(draws):
            impl.inner_update(theirs, UPDATES)
        far = {name: distance(impl._modules, state, name) for name in names}
    assert {name for name in names if far[name] < EXACT} == whatever_the_order, far
    assert {name for name in names if far[name] < 1e3 * EXACT} == whatever_the_order, far
    return seen


def rebrac_in_our_order(impl, batch):
    """The critics; at every second update the target actor, the actor, the target critics."""
    losses = impl.update_critic(batch)
    if impl.updates % 2 == 0:
        impl.update_actor_target()
        losses |= {"actor_loss": impl.update_actor(batch)["actor_loss"]}
        impl.update_critic_target()
    impl.updates += 1
    return losses


def test_rebrac(monkeypatch):
    normal = torch.nn.LayerNorm
    monkeypatch.setattr(torch.nn, "LayerNorm", lambda size: normal(size, eps=1e-6))
    monkeypatch.setattr(d3rlpy.algos.qlearning.torch.rebrac_impl.ReBRACImpl, "updates", 0, False)
    penalties = {"actor_penalty": 0.3, "critic_penalty": 0.2}
    options = ReBRACConfig(
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        actor_hidden=HIDDEN,
        critic_hidden=HIDDEN,
        **penalties,
    )
    critic_encoder = dataclasses.replace(encoder(), use_layer_norm=True)
    config = d3rlpy.algos.ReBRACConfig(
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        actor_encoder_factory=encoder(),
        critic_encoder_factory=critic_encoder,
        actor_beta=0.3,
        critic_beta=0.2,
    )
    compare(
        ReBRAC(options, OBS, ACT),
        config,
        rebrac_in_our_order,
        lambda rng: (rng.normal(size=(BATCH, ACT)),),
        {"critic", "target_critic", "actor"},
    )


def encoder():
    return d3rlpy.models.VectorEncoderFactory(list(HIDDEN), activation="relu")


def iql_in_our_order(impl, batch):
    """V, then the actor and Q with the new V."""
    optimizer = impl._modules.critic_optim.optim  # of V and Q; what has no gradient rests

    def step(loss):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    v_loss = step(impl.compute_value_loss(batch))
    actor = impl.update_actor(batch)
    q_loss = step(impl.compute_critic_loss(batch, impl.compute_target(batch)).q_loss)
    impl.update_critic_target()
    return {"value_loss": v_loss, "critic_loss": q_loss, **actor}


def test_iql(monkeypatch):
    def our_head(policy, x):
        mean = policy._mu(policy._encoder(x))
        return ActionOutput(mean, torch.tanh(mean), policy._logstd.clamp(-5.0, 2.0))

    monkeypatch.setattr("d3rlpy.models.torch.policies.NormalPolicy.forward", our_head)
    options = IQLConfig(
        learning_rate=RATE,
        actor_schedule="constant",
        actor_hidden=HIDDEN,
        critic_hidden=HIDDEN,
        expectile=0.75,  # d3rlpy rounds the loss's factor to float32, which this one is exact in
        inverse_temperature=10.0,  # so that the bound of the weight plays a part
    )
    config = dataclasses.replace(
        peers.iql_config(encoder()),
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        expectile=0.75,
        weight_temp=10.0,
    )
    seen = compare(
        IQL(options, OBS, ACT), config, iql_in_our_order, lambda rng: (), {"value", "actor"}
    )
    assert all(0.5 < m["advantage_weight_mean"] < MAX_WEIGHT for m in seen)


@contextlib.contextmanager
def step_put_off(optimizer, parameter):
    """A step that is taken meanwhile is taken at the end, with the gradient that it has now."""
    weight = parameter._parameter
    with mock.patch.object(optimizer, "step", lambda: weight.requires_grad_(False)):
        yield
    weight.requires_grad_(True)
    optimizer.step()


def actor_in_our_order(impl, batch):
    """The actor, then the temperature; the gradient of the critics stays what it is."""
    m = impl._modules
    m.q_funcs.requires_grad_(False)
    with step_put_off(m.temp_optim, m.log_temp):
        losses = impl.update_actor(batch)
    m.q_funcs.requires_grad_(True)
    return {"actor_loss": losses["actor_loss"], "entropy_temperature": losses["temp"]}


def calql_in_our_order(impl, batch):
    """All gradients at the old state."""
    m = impl._modules
    tuned = step_put_off(m.alpha_optim, m.log_alpha) if m.alpha_optim else contextlib.nullcontext()
    with tuned:
        critic = impl.compute_critic_grad(batch)
    actor = actor_in_our_order(impl, batch)
    m.critic_optim.step()
    impl.update_critic_target()
    # The conservative term is Σ_k α c (R_k - threshold), with c the constant weight.
    gap = critic.conservative_loss / (2 * critic.alpha * impl._conservative_weight)
    return actor | {
        "td_loss": float(critic.critic_loss - critic.conservative_loss),
        "conservative_gap": float(gap + impl._alpha_threshold),
        "lagrange_multiplier": float(critic.alpha),
    }


@pytest.mark.parametrize("lagrange", [False, True], ids=["fixed", "lagrange"])
def test_calql(lagrange):
    alpha, threshold = (1.0, 0.8) if lagrange else (10.0, 0.0)
    options = CalQLConfig(
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        actor_hidden=HIDDEN,
        critic_hidden=HIDDEN,
        alpha=alpha,
        lagrange=lagrange,
        lagrange_threshold=threshold,
        max_target_backup=True,
    )
    config = dataclasses.replace(
        peers.calql_config(encoder()),
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        temp_learning_rate=RATE,
        conservative_weight=alpha,
        alpha_threshold=threshold,
        max_q_backup=True,
    )
    if lagrange:
        config = dataclasses.replace(config, alpha_learning_rate=RATE, initial_alpha=math.e)
    n = options.sampled_actions

    def draw(rng):
        """Of the target, of π(s), of π(s'), uniform ones, of the actor."""
        target, now, later = rng.normal(size=(3, BATCH, n, ACT))
        uniform = rng.uniform(-1, 1, (BATCH, n, ACT))
        return target, now, later, uniform, rng.normal(size=(BATCH, 1, ACT))

    seen = compare(
        CalQL(options, OBS, ACT),
        config,
        calql_in_our_order,
        draw,
        {"log_temperature"} if lagrange else {"log_temperature", "critic", "target_critic"},
    )
    assert all(0.1 < m["calibrated_fraction"] < 0.9 for m in seen)


def sac_in_our_order(impl, batch):
    """The critics, the actor with the new critics and the old temperature, the temperature."""
    losses = impl.update_critic(batch) | actor_in_our_order(impl, batch)
    impl.update_critic_target()
    return losses


def test_sac():
    options = SACConfig(learning_rate=RATE, actor_hidden=HIDDEN, critic_hidden=HIDDEN)
    config = d3rlpy.algos.SACConfig(
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        temp_learning_rate=RATE,
        actor_encoder_factory=encoder(),
        critic_encoder_factory=encoder(),
    )
    compare(
        SAC(options, OBS, ACT),
        config,
        sac_in_our_order,
        lambda rng: rng.normal(size=(2, BATCH, 1, ACT)),
        {"log_temperature", "critic", "target_critic"},
    )
