"""examples/single_file.py against the package: the same weights, batches and keys in both."""

import ast
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stratdiff
from stratdiff.agents.iql import IQL
from stratdiff.config import make_config
from stratdiff.data.batch import Transition
from stratdiff.diffusion.behaviour import BehaviourModel
from stratdiff.diffusion.energy import EnergyModel
from stratdiff.diffusion.sampler import guided
from stratdiff.scores.guided import guided_alignment
from stratdiff.splits import conservative_first, lowest, offline_like_count

FILE = Path(__file__).parents[2] / "examples" / "single_file.py"
OBS, ACT, BATCH, SUPPORT, ROWS = 3, 2, 8, 4, 64
KEY = jax.random.key(5)
# The moments after some earlier updates: a step then depends on the size of the gradient, while
# the first step of Adam depends on its sign alone, which rounding may change near 0.
MU, NU, COUNT = 0.01, 1e-3, 3

# All access to the package: its options, its three parts and their states, its functions.


def make_options(config):
    """The command line of the single file for a config of the package."""
    names = "dataset rho guidance_scale offline_steps behaviour_steps energy_steps online_steps"
    table = config.to_table()
    return {name: table[name] for name in names.split()} | {"seed": config.seeds[0]}


def make_constants(config):
    """The hyperparameters of the single file for a config of the package."""

    def shared(*values):
        assert len(set(values)) == 1
        return values[0]

    iql, behaviour, energy = config.agent, config.scoring.behaviour, config.scoring.energy
    assert (config.base, config.score, config.split) == ("iql", "guided", "ratio")
    assert (config.utd, config.offline_fraction, behaviour.solver) == (1, 0.5, "multistep")
    sde = BehaviourModel(behaviour, OBS, ACT).sde
    rates = iql.learning_rate, behaviour.learning_rate, energy.learning_rate
    return {
        "BATCH_SIZE": shared(config.batch_size, behaviour.batch_size, energy.batch_size),
        "SUPPORT_ACTIONS": behaviour.support_actions,
        "ONLINE_WARMUP": config.online_warmup,
        "EVAL_EPISODES": config.eval_episodes,
        "LEARNING_RATE": shared(*rates),
        "EMA": behaviour.ema,
        "INVERSE_TEMPERATURE": config.scoring.inverse_temperature,
        "HIDDEN": shared(iql.actor_hidden, iql.critic_hidden),
        "WIDTHS": behaviour.widths,
        "ENERGY_HIDDEN": energy.hidden,
        "DISCOUNT": iql.discount,
        "POLYAK": iql.polyak,
        "AWR_SCALE": iql.inverse_temperature,
        "EXPECTILE": iql.expectile,
        "ONLINE_EXPECTILE": iql.online_expectile or iql.expectile,
        "CANDIDATES": iql.max_target_actions if iql.online_target == "max-q" else 1,
        "BETA0": sde.beta0,
        "BETA1": sde.beta1,
        "T_MIN": sde.t_min,
        "SOLVER_STEPS": behaviour.solver_steps,
    }


class Package:
    """The package's IQL, behaviour model and energy model; `states` are those of all three."""

    def __init__(self, config, obs_dim=OBS, act_dim=ACT):
        self.config = config
        self.options = config.scoring
        self.agent = IQL(config.agent, obs_dim, act_dim, config.offline_steps)
        self.behaviour = BehaviourModel(config.scoring.behaviour, obs_dim, act_dim)
        self.energy = EnergyModel(config.scoring.energy, obs_dim, act_dim)

    def init(self, seed):
        """The states that a run with this seed starts with."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), 0)
        parts = self.agent, self.behaviour, self.energy
        return [part.init(k) for part, k in zip(parts, jax.random.split(key, 3), strict=True)]

    def iql_update(self, states, batch, key, k=BATCH):
        fields = {name: batch[name] for name in ("obs", "action", "reward", "next_obs")}
        mc_return = jnp.full(BATCH, -jnp.inf)
        rows = Transition(**fields, terminal=batch["terminal"] > 0, mc_return=mc_return)
        new, metrics = self.agent.update(states[0], rows, key, k)
        losses = tuple(metrics[f"{name}_loss"] for name in ("value", "actor", "critic"))
        return [new, *states[1:]], losses

    def behaviour_update(self, states, batch, key):
        new, metrics = self.behaviour.update(states[1], batch["obs"], batch["action"], key)
        return [states[0], new, states[2]], metrics["behaviour_loss"]

    def energy_update(self, states, batch, key):
        q = self.agent.q(states[0], batch["obs"][:, None], batch["support"])
        beta_q = self.options.inverse_temperature * q
        new, metrics = self.energy.update(states[2], batch["obs"], batch["support"], beta_q, key)
        return [*states[:2], new], metrics["energy_loss"]

    def guided_actions(self, states, obs, noise):
        net, score = states[2].net, self.behaviour.score(states[1].ema, obs)
        score = guided(score, lambda a, t: net(obs, a, t), self.options.guidance_scale)
        return self.behaviour.sample(score, noise)

    def support(self, states, obs, keys):
        return self.behaviour.support(states[1], obs, keys)

    @staticmethod
    def alignment_scores(action, guided_action):
        return guided_alignment(action, guided_action)

    @staticmethod
    def split(scores, rho):
        k = offline_like_count(rho, len(scores))
        return conservative_first(lowest(scores, k)), k

    @staticmethod
    def run(config, directory):
        """The scores before and after the online phase of a whole run."""
        scores = stratdiff.train(config, directory).scores
        return scores["before"][0], scores["after"][0]


def layer(linear):
    return linear.weight, linear.bias


def layers(mlp, name=""):
    return {f"{name}{i}": layer(linear) for i, linear in enumerate(mlp.layers)}


def actor_weights(actor):
    return layers(actor.net) | {"log_std": actor.log_std}


def critic_weights(critic):
    members = jax.tree.map(np.asarray, critic.members)
    first, second = (jax.tree.map(lambda w, k=k: w[k], members) for k in range(2))
    return layers(first, "first") | layers(second, "second")


def time_weights(net):
    return {"frequencies": net.time_features.frequencies, "time": layer(net.time_embedding)}


def energy_weights(net):
    return time_weights(net) | layers(net.mlp)


def unet_weights(net):
    blocks = {"middle": net.middle}
    blocks |= {f"down{i}": block for i, block in enumerate(net.down)}
    blocks |= {f"up{i}": block for i, block in enumerate(net.up)}
    named = {"obs": net.obs_embedding, "out": net.out}
    named |= {f"mixer{i}": linear for i, linear in enumerate(net.mixer)}
    for name, block in blocks.items():
        named |= {f"{name}.{part}": getattr(block, part) for part in ("first", "second")}
        named |= {f"{name}.condition": block.condition}
        named |= {} if block.skip is None else {f"{name}.skip": block.skip}
    return time_weights(net) | {name: layer(linear) for name, linear in named.items()}


def make_nets(single, states):
    """The package's states as the networks of the single file."""
    agent, behaviour, energy = states

    def net(weights, opt, convert):
        moments = opt[0]
        adam = optax.ScaleByAdamState(moments.count, convert(moments.mu), convert(moments.nu))
        return single.Net(convert(weights), (adam, optax.EmptyState()))

    return single.Nets(
        actor=net(agent.actor, agent.actor_opt, actor_weights),
        value=net(agent.value, agent.value_opt, layers),
        critic=net(agent.critic, agent.critic_opt, critic_weights),
        target=critic_weights(agent.target_critic),
        behaviour=net(behaviour.net, behaviour.opt, unet_weights),
        ema=unet_weights(behaviour.ema),
        energy=net(energy.net, energy.opt, energy_weights),
    )


def shaken(states):
    """The states with large random weights, apart from each other, and moments of some updates."""
    rng = np.random.default_rng(1)

    def shake(path, x):
        name = jax.tree_util.keystr(path)
        if x.ndim == 0:
            return jnp.asarray(np.array(COUNT, x.dtype))
        if ".mu" in name or ".nu" in name:
            return jnp.asarray(np.full(x.shape, MU if ".mu" in name else NU, x.dtype))
        spread = 30.0 if "frequencies" in name else x.shape[-2:][0] ** -0.5
        return jnp.asarray(rng.normal(0, spread, x.shape).astype(x.dtype))

    return jax.tree_util.tree_map_with_path(shake, states)


# The single file.


def load(**constants):
    """A fresh copy of the single file with these hyperparameters."""
    spec = importlib.util.spec_from_file_location("single_file", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in constants.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    return module


# Every hyperparameter differs from its default, so that none can be written into the code.
CONFIG = make_config(
    "demo",
    base="iql",
    rho=0.3,
    guidance_scale=1.7,
    offline_steps=COUNT + 2,
    batch_size=BATCH,
    iql={
        "learning_rate": 0.02,
        "actor_hidden": (6, 5),
        "critic_hidden": (6, 5),
        "discount": 0.9,
        "polyak": 0.1,
        "expectile": 0.6,
        "online_expectile": 0.95,
        "online_target": "max-q",
        "inverse_temperature": 8.0,  # some of the actor's weights are cut at 100
        "max_target_actions": 3,
    },
    behaviour={
        "widths": (12, 10, 7),
        "learning_rate": 0.02,
        "batch_size": BATCH,
        "ema": 0.8,
        "solver_steps": 6,
        "support_actions": SUPPORT,
        "precision": "float32",
    },
    energy={
        "hidden": (9, 8, 7),
        "learning_rate": 0.02,
        "batch_size": BATCH,
        "inverse_temperature": 0.7,
    },
)
PACKAGE = Package(CONFIG)


@pytest.fixture(scope="module")
def single():
    return load(**make_constants(CONFIG))


@pytest.fixture(scope="module")
def algorithm(single):
    return single.StratDiff(**make_options(CONFIG))


@pytest.fixture(scope="module")
def states():
    return shaken(PACKAGE.init(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    shapes = {"obs": (OBS,), "reward": (), "next_obs": (OBS,)}
    arrays = {name: rng.normal(size=(BATCH, *shape)) for name, shape in shapes.items()}
    arrays["action"] = rng.uniform(-1, 1, (BATCH, ACT))
    arrays["support"] = rng.uniform(-1, 1, (BATCH, SUPPORT, ACT))
    arrays["terminal"] = np.arange(BATCH) % 3 == 1
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def assert_close(found, expected):
    """Equal to float32 accuracy, leaf by leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, b), a in zip(paths, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6, err_msg=name)


def compare_updates(single, states, batch, single_update, package_update, changed):
    """Three updates on each side: all losses, weights and moments agree after each.

    `changed` are the networks that the updates change.
    """
    ours, theirs = make_nets(single, states), states
    rows = single.Batch(**batch)
    single_update, package_update = jax.jit(single_update), jax.jit(package_update)
    for key in jax.random.split(KEY, 3):
        before = ours
        ours, found = single_update(ours, rows, key)
        theirs, expected = package_update(theirs, batch, key)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert_close(ours, make_nets(single, theirs))
        for name in single.Nets._fields:
            pairs = zip(*(jax.tree.leaves(getattr(n, name)) for n in (ours, before)), strict=True)
            moved = max(np.abs(np.subtract(a, b)).max() for a, b in pairs)
            # What is compared moves by far more than the tolerance.
            assert moved > 1e-3 if name in changed else moved == 0, name


# Tests.


def test_it_is_one_short_file_with_only_data_and_environments_of_the_package():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 300
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    assert not any("stratdiff" in alias.name for node in imports for alias in node.names)
    found = {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "stratdiff"
        for alias in node.names
    }
    tasks = "stratdiff.tasks"
    assert found == {("stratdiff", "load_dataset"), (tasks, "find_task"), (tasks, "make_env")}


def test_defaults_are_those_of_the_demo_preset():
    single, config = load(), make_config("demo", base="iql")
    constants = make_constants(config)
    assert {name: getattr(single, name) for name in constants} == constants
    assert single.StratDiff._field_defaults == make_options(config)


def test_initial_networks_are_like_the_packages():
    single, package = load(), Package(make_config("demo", base="iql"))
    ours, theirs = single.StratDiff().init(OBS, ACT), make_nets(single, package.init(0))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        # Both are zero, or uniform or orthogonal of the same size.
        spreads = [float(np.sqrt(np.square(x).mean())) for x in (a, b)]
        assert (spreads[0] == 0) == (spreads[1] == 0)
        if a.size >= 200:  # otherwise the spread of a few numbers is chance
            assert spreads[0] == pytest.approx(spreads[1], rel=0.1)
    for copy, net in ((ours.target, ours.critic), (ours.ema, ours.behaviour)):
        assert jax.tree.all(jax.tree.map(np.array_equal, copy, net.params))
    other = single.StratDiff(seed=1).init(OBS, ACT)
    for name in ("actor", "value", "critic", "behaviour", "energy"):
        weights = [getattr(nets, name).params for nets in (ours, other)]
        assert not jax.tree.all(jax.tree.map(np.array_equal, *weights))


@pytest.mark.parametrize("k", [BATCH, BATCH // 2])
def test_iql_updates(single, algorithm, states, batch, k):
    changed = {"actor", "value", "critic", "target"}
    # By default all rows are offline-like.
    ours = functools.partial(algorithm.iql_update, **({} if k == BATCH else {"k": k}))
    theirs = functools.partial(PACKAGE.iql_update, k=k)
    compare_updates(single, states, batch, ours, theirs, changed)


def test_behaviour_updates(single, algorithm, states, batch):
    ours, theirs = algorithm.behaviour_update, PACKAGE.behaviour_update
    compare_updates(single, states, batch, ours, theirs, {"behaviour", "ema"})


def test_energy_updates(single, algorithm, states, batch):
    ours, theirs = algorithm.energy_update, PACKAGE.energy_update
    compare_updates(single, states, batch, ours, theirs, {"energy"})


def test_sampled_actions_and_scores(single, algorithm, states):
    rng = np.random.default_rng(3)
    obs = jnp.asarray(rng.normal(size=(ROWS, OBS)), jnp.float32)
    action = jnp.asarray(rng.uniform(-1, 1, (ROWS, ACT)), jnp.float32)
    keys = jax.random.split(KEY, ROWS)

    @jax.jit
    def theirs(states):
        guided_action = PACKAGE.guided_actions(states, obs, jax.random.normal(KEY, action.shape))
        scores = PACKAGE.alignment_scores(action, guided_action)
        return guided_action, PACKAGE.support(states, obs, keys), scores

    @jax.jit
    def ours(nets):
        noise = jax.random.normal(KEY, action.shape)
        guided_action = algorithm.sample(nets, obs, noise, CONFIG.scoring.guidance_scale)
        noise = jax.vmap(lambda key: jax.random.normal(key, (SUPPORT, ACT)))(keys)
        support = jax.vmap(lambda s, z: algorithm.sample(nets, s, z))(obs, noise)
        rows = single.Batch(obs, action, *[None] * 3)
        return guided_action, support, algorithm.alignment_scores(nets, rows, KEY)

    found, expected = ours(make_nets(single, states)), theirs(states)
    for a, b in zip(found[:2], expected[:2], strict=True):
        # Many samples are inside of [-1, 1], where the solver's cut cannot hide a difference.
        assert (np.abs(b) < 0.99).sum() > ROWS / 4
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-4, atol=1e-3)
    assert np.abs(expected[0] - expected[1][:, 0]).max() > 0.1
    order, k = PACKAGE.split(expected[2], CONFIG.splitting.rho)
    np.testing.assert_array_equal(algorithm.split(found[2])[0], order)
    assert algorithm.split(found[2])[1] == k


def test_split(algorithm):
    scores = jnp.asarray(np.random.default_rng(4).integers(0, 6, 50), jnp.float32)  # with ties
    for rho in (0.0, 0.29, 0.5, 1.0):
        order, k = algorithm._replace(rho=rho).split(scores)
        expected_order, expected_k = PACKAGE.split(scores, rho)
        assert k == expected_k
        np.testing.assert_array_equal(order, expected_order)


@pytest.fixture
def run_config(tiny):
    sizes = {"widths": [16, 8], "support_actions": 4, "batch_size": 16, "solver_steps": 4}
    return tiny(seeds=[3], behaviour=sizes | {"precision": "float32"})


def command_line(config):
    options = make_options(config).items()
    return [part for k, v in options for part in ("--" + k.replace("_", "-"), str(v))]


@pytest.mark.slow
def test_main_prints_the_scores_and_repeats_them(run_config, capsys):
    single = load(**make_constants(run_config))
    before, after = single.main(command_line(run_config))
    assert capsys.readouterr().out == (
        f"score before fine-tuning: {before:.1f}\nscore after fine-tuning: {after:.1f}\n"
    )
    assert before != after
    assert single.main(command_line(run_config)) == (before, after)


@pytest.mark.slow
def test_a_whole_run_gives_the_packages_scores(run_config, tmp_path):
    single, package = load(**make_constants(run_config)), Package(run_config, 2, 2)
    states = package.init(3)
    single.StratDiff.init = lambda self, obs_dim, act_dim: make_nets(single, states)
    found = single.main(command_line(run_config))
    expected = package.run(run_config, tmp_path / "run")
    assert abs(expected[1] - expected[0]) > 1
    # A change of rounding alone may one day order two rows of a batch otherwise.
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_bad_rho_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as error:
        load().main(["--rho", "1.5"])
    assert error.value.code == 2
    assert "--rho is 1.5; it must be between 0 and 1." in capsys.readouterr().err
