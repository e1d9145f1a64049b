"""examples/extensions/: each file against numbers worked by hand, and all through the command."""

import csv
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pointmass
import pytest

import stratdiff
from stratdiff import registry
from stratdiff.agents.calql import CalQL, CalQLConfig
from stratdiff.agents.iql import IQL, IQLConfig
from stratdiff.algorithm import Keys, StratDiff
from stratdiff.cli import main
from stratdiff.data.batch import Batch, Transition
from stratdiff.errors import UserError
from stratdiff.nn import MLP, stack
from stratdiff.options import NoOptions
from stratdiff.policy import Policy
from stratdiff.scores.random import Random
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.jsonl import read_metrics
from stratdiff.splits import diagnostics

TESTS = Path(__file__).parents[1]
EXTENSIONS = TESTS.parent / "examples" / "extensions"
sys.path[:0] = [str(EXTENSIONS), str(TESTS / "agents")]

import csv_sink
import npz_source
import reference
import rnd
import td3bc
import threshold

CHOSEN = [
    *("--base", "td3bc:TD3BC", "--score", "rnd:RND", "--split", "threshold:Threshold"),
    *("--track", "csv_sink:CSV"),
]
TINY = [
    *("--seeds", 3, 5, "--batch-size", 16, "--offline-steps", 40, "--online-steps", 60),
    *("--online-warmup", 10, "--log-interval", 10, "--offline-eval-interval", 40),
    *("--eval-interval", 30, "--eval-episodes", 1, "--checkpoint-seconds", 0),
    *("--td3bc.hidden", 8, 8, "--rnd.steps", 40, "--rnd.hidden", 8, "--rnd.features", 4),
    *("--rnd.learning-rate", 0.01),
]


def test_each_is_one_short_file():
    lengths = {
        path.name: len(path.read_text().splitlines())
        for path in EXTENSIONS.iterdir()
        if path.suffix == ".py"
    }
    assert lengths.keys() == {
        "td3bc.py", "rnd.py", "threshold.py", "csv_sink.py", "npz_source.py",
    }  # fmt: skip
    assert max(lengths.values()) <= 120


def test_the_documentation_quotes_the_files():
    """Excerpts are verbatim, and the score that is given whole works."""
    text, quoted = (TESTS.parent / "docs" / "extending.md").read_text(), set()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        name, _, excerpt = block.partition("\n")
        if name.startswith("# "):
            assert excerpt in (EXTENSIONS / name[2:]).read_text(), name
            quoted.add(name[2:])
        else:
            found = {}
            exec(block, found)
            batch = Batch(transitions(3), (), jnp.zeros(3, bool))
            score = found["Magnitude"](NoOptions(), 2, 2).score((), None, batch, None)
            np.testing.assert_allclose(score, np.square(batch.transitions.action).sum(1), rtol=1e-6)
    assert quoted == {"td3bc.py", "rnd.py", "threshold.py", "npz_source.py"}
    for path in EXTENSIONS.glob("*.py"):
        assert f"(../examples/extensions/{path.name})" in text


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Episodes of the point mass as .npz files, and the arrays that they are made from."""
    path, arrays = tmp_path_factory.mktemp("episodes"), pointmass.make_arrays(episodes=12)
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    for i, (first, last) in enumerate(zip([0, *(ends[:-1] + 1)], ends, strict=True)):
        rows = slice(first, last + 1)
        obs = arrays["observations"][rows]
        np.savez(
            path / f"{i:02d}.npz",
            observations=np.concatenate([obs, obs[-1:] + 0.1]),
            actions=arrays["actions"][rows],
            rewards=arrays["rewards"][rows],
            terminated=arrays["terminals"][last],
        )
    return path, arrays


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs `stratdiff ...` as a process of its own; (exit code, standard output, and error)."""
    cache = tmp_path_factory.mktemp("xla")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (EXTENSIONS, TESTS, TESTS.parent / "src"))),
        # The processes compile the same programs.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(*args):
        line = [sys.executable, "-m", "stratdiff.cli", *map(str, args)]
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def trained(command, folder, tmp_path_factory):
    """The directory of a run with all five."""
    out = tmp_path_factory.mktemp("runs") / "all"
    data = ["--dataset", f"npz_source:Folder/{folder[0]}", "--env", pointmass.ENV]
    code, _, err = command("train", *data, *CHOSEN, *TINY, "--out", out)
    assert code == 0, err
    return out


def records(directory):
    return read_metrics(directory / "metrics.jsonl")


def assert_same_table(directory):
    """metrics.csv says what metrics.jsonl says, and no more."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = records(directory)
    assert len(rows) == len(found) > 10
    for row, record in zip(rows, found, strict=True):
        flat = {name: record.pop(name) for name in ("phase", "step", "time")}
        for name, values in record.items():
            flat |= {f"{name}/{seed}": v for seed, v in zip((3, 5), values, strict=True)}
        assert row.keys() >= flat.keys()
        for name, cell in row.items():
            value = flat.get(name)
            expected = "" if value is None else value
            assert (cell if name == "phase" or cell == "" else float(cell)) == expected, name


def test_all_five_train_together(trained, folder):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["dataset"]["transitions"] == len(folder[1]["rewards"])
    assert summary["environment"] == pointmass.ENV
    phases = [record["phase"] for record in records(trained)]
    assert sorted(set(phases), key=phases.index) == ["base", "rnd", "online"]
    losses = [r["distillation_loss"] for r in records(trained) if r["phase"] == "rnd"]
    assert (np.array(losses[-1]) < 0.7 * np.array(losses[0])).all()
    fractions = [
        r["conservative_fraction"] for r in records(trained) if r["step"] and r["phase"] == "online"
    ]
    assert len(np.unique(fractions)) > len(fractions)
    assert (np.array(fractions) > 0).all() and (np.array(fractions) <= 1).all()
    policy = Policy.load(trained / "policy.safetensors")
    assert policy.kind == "gaussian" and len(policy) == 2
    np.testing.assert_allclose(np.exp(policy.log_std), 0.1, rtol=1e-6)
    assert_same_table(trained)


@pytest.mark.slow
def test_a_run_directory_with_code_is_resumed_only_if_it_is_trusted(trained, command, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    newest, before = sorted((int(p.name) for p in (cut / "checkpoints").iterdir()), reverse=True)
    shutil.rmtree(cut / "checkpoints" / str(newest))
    (cut / "summary.json").unlink()

    code, _, err = command("resume", cut)
    assert code == 2
    assert "'td3bc:TD3BC' is code that a file names as --base" in err and "--trust-modules" in err
    assert len(err.strip().splitlines()) == 1
    assert not (cut / "summary.json").exists()

    code, _, err = command("resume", cut, "--trust-modules")
    assert code == 0, err
    assert newest - before == 10  # the last ten online steps were done again
    whole, again = (json.loads((p / "summary.json").read_text()) for p in (trained, cut))
    assert again["parameters_sha256"] == whole["parameters_sha256"]
    assert again["score"] == whole["score"]
    for a, b in zip(records(trained), records(cut), strict=True):
        assert a | {"time": 0} == b | {"time": 0}
    assert_same_table(cut)


@pytest.fixture
def here(capsys, monkeypatch, tmp_path):
    """Runs a command in this process, which starts without trust; as `command`."""
    monkeypatch.setattr(registry, "_trusted", set())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*args):
        try:
            code = main([str(a) for a in args])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_help_shows_the_options_of_the_chosen_parts_only(here):
    own = ("--td3bc.alpha", "--td3bc.policy-delay", "--rnd.steps", "--threshold-deviations")
    others = ("--iql.expectile", "--guidance-scale", "--rho")
    for args, shown, hidden in ((CHOSEN, own, others), ([], others, own)):
        code, out, _ = here("train", *args, "--help")
        assert code == 0
        words = out.split()
        assert all(option in words for option in shown)
        assert not any(option in words for option in hidden)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--td3bc.alpha", "0"], "--td3bc.alpha is 0.0; it must be positive"),
        (["--rnd.features", "0"], "--rnd.features is 0; it must be 1 or more"),
        (["--threshold-decay", "1"], "--threshold-decay is 1.0; it must be at least 0 and below 1"),
        (["--dataset", "npz_source:Folder/nowhere"], "'nowhere' is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(here, tmp_path, args, expected):
    code, _, err = here("train", "--env", pointmass.ENV, *CHOSEN, *args)
    assert code == 2
    assert expected in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# TD3+BC


def transitions(n, seed=0):
    rng = np.random.default_rng(seed)
    return Transition(
        *(jnp.asarray(rng.normal(size=(n, 2)), jnp.float32) for _ in range(2)),
        jnp.asarray(rng.normal(size=n), jnp.float32),
        jnp.asarray(rng.normal(size=(n, 2)), jnp.float32),
        jnp.asarray(rng.random(n) < 0.3),
        jnp.asarray(rng.normal(size=n), jnp.float32),
    )._replace(action=jnp.asarray(rng.uniform(-1, 1, (n, 2)), jnp.float32))


def test_the_noise_on_target_actions_is_clipped_and_so_are_they():
    action, noise = jnp.array([[0.1, 0.9, -0.2]]), jnp.array([[0.2, 0.3, -0.7]])
    np.testing.assert_allclose(td3bc.smoothed(action, noise, 0.5), [[0.3, 1.0, -0.7]], rtol=1e-6)


def test_the_actor_loss_of_two_rows():
    # mean |Q| = 2, so λ = 2.5 / 2. The mean squares are (0.5² + 0) / 2 and (1 + 1) / 2.
    q, policy = jnp.array([1.0, -3.0]), jnp.array([[0.5, 0.0], [0.0, 0.0]])
    action = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    for kept, expected in (((1, 1), (0.125 - 1.25, 1 + 3.75)), ((1, 0), (-1.125, 3.75))):
        found = td3bc.actor_loss(q, policy, action, jnp.array(kept), 2.5)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # λ is a constant.
    gradient = jax.grad(lambda q: td3bc.actor_loss(q, policy, action, 1.0, 2.5).sum())(q)
    np.testing.assert_allclose(gradient, [-1.25, -1.25], rtol=1e-6)


def test_td3bc_equals_numpy():
    """Two updates: targets, losses, the delay, the actor's first step of Adam, and export."""
    options = td3bc.TD3BCOptions(hidden=(4,), target_noise=0.0, learning_rate=0.01, polyak=0.25)
    agent, batch, kept = td3bc.TD3BC(options, 2, 2), transitions(6), np.arange(6) < 4
    update = jax.jit(agent.update, compiler_options=reference.FAST)
    start = agent.init(jax.random.key(0))
    first, losses = update(start, batch, jax.random.key(1), jnp.array(4))
    second, _ = update(first, batch, jax.random.key(2), jnp.array(4))

    old, after, data = (reference.to_numpy(x) for x in (start, first, batch))
    with_action = np.concatenate([data.obs, data.action], 1)

    def act(actor, obs):
        return np.tanh(reference.mlp(actor.net, obs))

    def q(critic, k, inputs):
        return reference.mlp(jax.tree.map(lambda x: x[k], critic.members), inputs)[:, 0]

    inputs = np.concatenate([data.next_obs, act(old.target_actor, data.next_obs)], 1)
    next_q = np.minimum(*(q(old.target_critic, k, inputs) for k in range(2)))
    target = data.reward + 0.99 * (1 - data.terminal) * next_q
    td = sum((q(old.critic, k, with_action) - target) ** 2 for k in range(2)).mean()
    np.testing.assert_allclose(losses["critic_loss"], td, rtol=1e-5)
    np.testing.assert_allclose(losses["td_target_mean"], target.mean(), rtol=1e-5)

    def values(critic, actor):
        action = act(actor, data.obs)
        return action, q(critic, 0, np.concatenate([data.obs, action], 1))

    def actor_loss(critic, actor, scale):
        action, value = values(critic, actor)
        return (kept * ((action - data.action) ** 2).mean(1) - scale * value).mean()

    scale = 2.5 / np.abs(values(after.critic, old.actor)[1]).mean()
    expected = actor_loss(after.critic, old.actor, scale)
    np.testing.assert_allclose(losses["actor_loss"], expected, rtol=1e-4)

    # The first update leaves the actor and the targets alone; the second moves them.
    for name in ("actor", "target_actor", "target_critic"):
        reference.assert_trees_close(getattr(first, name), getattr(start, name), rtol=0)
    critic = reference.to_numpy(second.critic)
    scale = 2.5 / np.abs(values(critic, old.actor)[1]).mean()
    gradient = reference.finite_differences(lambda a: actor_loss(critic, a, scale), old.actor)
    # Adam's first step is as long as the learning rate, whatever the gradient.
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g / (np.abs(g) + 1e-8), old.actor, gradient)
    reference.assert_trees_close(second.actor, stepped, atol=2e-4)
    mixed = jax.tree.map(lambda t, w: 0.75 * t + 0.25 * w, old.target_critic, critic)
    reference.assert_trees_close(second.target_critic, mixed, rtol=1e-4, atol=1e-6)

    mean, std = np.array([1.0, 2.0], np.float32), np.array([0.5, 2.0], np.float32)
    policy = agent.export(stack([second]), mean, std, {})
    expected = act(reference.to_numpy(second.actor), data.obs)
    np.testing.assert_allclose(policy.mode((data.obs * std + mean)[None])[0], expected, atol=1e-5)


# A dynamic number of conservative rows


AGENTS = {
    "td3bc": (td3bc.TD3BC, td3bc.TD3BCOptions(hidden=(4,), policy_delay=1)),
    "iql": (IQL, IQLConfig(actor_hidden=(4,), critic_hidden=(4,), max_target_actions=3)),
    "calql": (CalQL, CalQLConfig(actor_hidden=(4,), critic_hidden=(4,), sampled_actions=2)),
}


@pytest.mark.parametrize(
    "name", [n if n == "iql" else pytest.param(n, marks=pytest.mark.slow) for n in AGENTS]
)
def test_a_dynamic_split_drives_the_agent(name):
    """The update is that of the agent with the same number as a constant."""
    kind, options = AGENTS[name]
    agent, n = kind(options, 2, 2), 12
    split = threshold.Threshold(threshold.ThresholdOptions(0.5, 0.9))
    algorithm = StratDiff(agent, Random(NoOptions(), 2, 2), split)
    keys = Keys(*jax.random.split(jax.random.key(1), 3))
    batch = Batch(transitions(n), (), jnp.arange(n) >= n // 2)
    # Targets do not depend on actions, which are drawn for other rows where the number is constant.
    start = eqx.tree_at(
        lambda s: s.agent.target_critic.members.layers[0].weight,
        algorithm.init(jax.random.key(0)),
        replace_fn=lambda weight: weight.at[:, 2:].set(0.0),
    )

    @functools.partial(jax.jit, compiler_options=reference.FAST)
    def update(score_key):
        state, metrics = algorithm.update(start, batch, keys._replace(score=score_key))
        return state.agent, metrics["conservative_fraction"]

    counts = set()
    for seed in range(4):
        found, fraction = update(jax.random.key(seed))
        counts.add(round(float(fraction) * n))
    assert len(counts) > 1 and 0 < max(counts) < n

    score = algorithm.score.score((), algorithm.view(start), batch, jax.random.key(3))
    _, rows, _ = split(split.init(), score, batch.online)
    ordered = jax.tree.map(lambda x: x[rows.order], batch.transitions)
    constant = jax.jit(agent.update, static_argnums=3, compiler_options=reference.FAST)
    expected, _ = constant(start.agent, ordered, keys.agent, int(rows.conservative))
    reference.assert_trees_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_threshold_of_two_batches():
    rule = threshold.Threshold(threshold.ThresholdOptions(1.0, 0.5), None)
    split = jax.jit(rule)
    online = jnp.array([False, False, True, True])
    # Offline scores 1 and 3: mean 2, deviation 1, so that the limit is 3.
    state, rows, metrics = split(rule.init(), jnp.array([1.0, 3.0, 10.0, 2.0]), online)
    assert rows.order.tolist() == [0, 1, 3, 2] and rows.conservative == 3
    assert metrics["conservative_fraction"] == 0.75
    # Offline scores 5 and 7 weigh 2/3, those before 1/3: mean 14/3, mean square 79/3.
    scores = jnp.array([5.0, 7.0, 6.8, 6.81])
    state, rows, metrics = split(state, scores, online)
    limit = 14 / 3 + (79 / 3 - (14 / 3) ** 2) ** 0.5
    np.testing.assert_allclose(threshold.threshold(state, 1.0), limit, rtol=1e-5)
    assert 6.8 < limit < 6.81
    assert rows.order.tolist() == [0, 2, 1, 3] and rows.conservative == 2
    for name, value in diagnostics(scores, online, jnp.array([True, False, True, False])).items():
        np.testing.assert_allclose(metrics[name], value, err_msg=name)
    # A batch without offline rows changes nothing; without any so far, all rows are conservative.
    same, _, _ = split(state, scores, jnp.ones(4, bool))
    reference.assert_trees_close(same, state, rtol=0)
    assert split(rule.init(), scores, jnp.ones(4, bool))[1].conservative == 4


# The score, the sink and the source


def test_the_distillation_error_of_one_row():
    # f(s, a) = (s_1 + 2 a, 1) and g = (0, 3), at s = (1, 0) and a = 0.5: 2² + 2².
    net, random = (
        eqx.tree_at(
            lambda m: (m.layers[0].weight, m.layers[0].bias),
            MLP(3, (), 2, jax.random.key(0)),
            (jnp.array(weight), jnp.array(bias)),
        )
        for weight, bias in (([[1.0, 0], [0, 0], [2, 0]], [0.0, 1]), (np.zeros((3, 2)), [0.0, 3]))
    )
    found = rnd.error(net, random, jnp.array([[1.0, 0.0]]), jnp.array([[0.5]]))
    np.testing.assert_allclose(found, [8.0])


def test_the_csv_sink_keeps_what_a_checkpoint_has(tmp_path):
    sink = csv_sink.CSV(tmp_path, {"seeds": (7,)})
    sink.rewind(0, 0)
    for step in (1, 2):
        sink.log(LogPoint("base", step, step, 0.5), {"loss": np.array([step / 3])})
    sink.log(LogPoint("online", 1, 3, 0.75), {"q": np.array([np.nan]), "r": np.array([1e9])})
    sink.close()
    text = (tmp_path / "metrics.csv").read_text()
    assert text.splitlines() == [
        "phase,step,time,loss/7,q/7,r/7", "base,1,0.5,0.333333,,", "base,2,0.5,0.666667,,",
        "online,1,0.75,,,1e+09",
    ]  # fmt: skip
    again = csv_sink.CSV(tmp_path, {"seeds": (7,)})
    again.rewind(2, 2)
    again.log(LogPoint("online", 1, 3, 0.75), {"q": np.array([np.nan]), "r": np.array([1e9])})
    assert (tmp_path / "metrics.csv").read_text() == text
    with pytest.raises(UserError, match="has 3 rows, but the run has 4 log points"):
        csv_sink.CSV(tmp_path, {"seeds": (7,)}).rewind(4, 4)


def save(path, **changes):
    episode = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.full((3, 1), 0.5),
        "rewards": np.array([1.0, 2.0, 4.0]),
        "terminated": True,
    }
    np.savez(path, **{k: v for k, v in (episode | changes).items() if v is not None})


def load(folder):
    source = npz_source.Folder("npz_source:Folder/")
    return source.load(source.find(f"npz_source:Folder/{folder}"))


def test_the_rows_of_two_episodes(tmp_path):
    save(tmp_path / "b.npz")
    save(tmp_path / "a.npz", terminated=False)
    data = load(tmp_path)
    assert data.observations[:, 0].tolist() == [0, 2, 4, 6, 0, 2, 4, 4]
    assert data.actions[:, 0].tolist() == [0.5, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0]
    assert data.transitions.tolist() == [0, 1, 2, 4, 5, 6]
    assert np.flatnonzero(data.ends).tolist() == [3, 6]
    assert np.flatnonzero(data.terminals).tolist() == [6]
    assert data.episode_returns.tolist() == [7.0, 7.0]


def test_a_source_that_a_program_names_is_trusted(folder, monkeypatch):
    monkeypatch.setattr(registry, "_trusted", set())
    config = stratdiff.make_config(dataset=f"npz_source:Folder/{folder[0]}", env=pointmass.ENV)
    data = stratdiff.load_dataset(config.dataset)
    np.testing.assert_array_equal(data.actions[data.transitions], folder[1]["actions"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (None, "has no .npz file"),
        ({"rewards": None}, "is not such an episode: it has no array 'rewards'"),
        ({"actions": np.zeros((4, 1))}, "4 observations and 4 actions for 3 rewards"),
        ({"rewards": np.array([1, "x", None], object)}, "Object arrays cannot be loaded"),
        ({"actions": np.full((3, 1), 2.0)}, r"action values are outside \[-1, 1\]"),
    ],
)
def test_bad_episodes_are_refused(tmp_path, changes, expected):
    if changes is not None:
        save(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=expected):
        load(tmp_path)
