"""StratDiff with IQL in one file, to be read from top to bottom (arXiv 2511.03828).

An agent learns offline from a data set D_off, then online, where its transitions fill a buffer
D_on. Online, a diffusion model of the behaviour policy, guided by the Q-function, tells which rows
of a batch look like the offline policy's: they keep IQL's offline losses, the others get bolder
ones. Sections are those of docs/method.md. With the same initial weights and seed, the package
computes the same numbers in float32 (tests/examples/test_single_file.py).
"""
# ruff: noqa: D101, D103, E731

import argparse
from collections import namedtuple
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.nn import log_softmax, relu, silu, softmax
from jax.scipy.stats import norm

from stratdiff import load_dataset
from stratdiff.tasks import find_task, make_env

# Hyperparameters, as in the package's preset `demo`.
BATCH_SIZE, SUPPORT_ACTIONS, ONLINE_WARMUP, EVAL_EPISODES = 256, 8, 1000, 20
LEARNING_RATE, EMA, INVERSE_TEMPERATURE = 3e-4, 0.999, 3.0  # EMA: sampling weights; β of exp(β Q)
HIDDEN, WIDTHS, ENERGY_HIDDEN = (256, 256), (128, 64, 32), (64, 64, 64)  # IQL, U-Net, energy model
DISCOUNT, POLYAK, AWR_SCALE = 0.99, 0.005, 3.0  # IQL; the scale is β of its equation 7
EXPECTILE, ONLINE_EXPECTILE, CANDIDATES = 0.7, 0.7, 1  # IQL; the last two: of online-like rows
BETA0, BETA1, T_MIN, SOLVER_STEPS = 0.1, 20.0, 1e-3, 8  # noise schedule, sampling

Batch = namedtuple("Batch", "obs action reward next_obs terminal support", defaults=[None])
Net = namedtuple("Net", "params opt")  # weights and the state of their optimiser
Nets = namedtuple("Nets", "actor value critic target behaviour ema energy")  # all that learns
log_alpha = lambda t: -(BETA1 - BETA0) * t**2 / 4 - BETA0 * t / 2
DRAWS = "init iql behaviour support energy batch agent score energy2 support2 act"


def dense(p, name, x, size, gain=None):  # x W + b
    if name not in p:  # the first time: orthogonal W and b = 0, or both uniform in ±1/sqrt(inputs)
        n = x.shape[-1]
        w, b = (np.random.uniform(-1, 1, shape) / n**0.5 for shape in ((n, size), size))
        if gain is not None:
            u, _, v = np.linalg.svd(np.random.normal(size=(n, size)), full_matrices=False)
            w, b = gain * u @ v, np.zeros(size)
        p[name] = w.astype(np.float32), b.astype(np.float32)
    return x @ p[name][0] + p[name][1]


def mlp(p, x, sizes, name="", activation=relu, gains=(2**0.5, 2**0.5)):
    for i, size in enumerate(sizes[:-1]):
        x = activation(dense(p, f"{name}{i}", x, size, gains[0]))
    return dense(p, f"{name}{len(sizes) - 1}", x, sizes[-1], gains[1])


def concat(*parts):  # side by side; the leading dimensions broadcast
    shape = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in parts], -1)


def adam(net, loss):  # (network after one step of Adam, loss)
    value, grads = jax.value_and_grad(loss)(net.params)
    updates, opt = optax.adam(LEARNING_RATE).update(grads, net.opt)
    return Net(optax.apply_updates(net.params, updates), opt), value


def schedule(t):  # α(t) and σ(t) of the VP-SDE (arXiv 2011.13456; section 1)
    return jnp.exp(log_alpha(t)), jnp.sqrt(-jnp.expm1(2 * log_alpha(t)))


def perturb(action, shape, key):  # a_t = α(t) a + σ(t) z, t ~ U[T_MIN, 1] of this shape; also t, z
    t_key, noise_key = jr.split(key)
    t, noise = jr.uniform(t_key, shape, minval=T_MIN), jr.normal(noise_key, action.shape)
    alpha, sigma = schedule(t[..., None])
    return alpha * action + sigma * noise, t, noise


class StratDiff(NamedTuple):  # the method; its fields are the options of the command line
    dataset: str = "stratdiff/halfcheetah-medium-replay"
    seed: int = 0
    rho: float = 0.5  # fraction ρ of an online batch that counts as offline-like
    guidance_scale: float = 3.0  # w
    offline_steps: int = 30_000  # updates of IQL on D_off
    behaviour_steps: int = 4000  # updates of the behaviour model
    energy_steps: int = 1000  # updates of the energy model on D_off
    online_steps: int = 5000  # environment steps, each with one update

    def key(self, purpose, step):  # every random draw has a key of its own
        return jr.fold_in(jr.fold_in(jr.key(self.seed), DRAWS.split().index(purpose)), step)

    def policy(self, p, obs):  # mean and standard deviation; actions are cut to [-1, 1]
        mean = jnp.tanh(mlp(p, obs, (*HIDDEN, p["log_std"].size)))
        return mean, jnp.exp(jnp.clip(p["log_std"], -5, 2))

    def value(self, p, *inputs, name=""):  # V(s), or Q(s, a)
        return mlp(p, concat(*inputs), (*HIDDEN, 1), name)[..., 0]

    def critics(self, p, obs, action):  # Q_1(s, a) and Q_2(s, a)
        return jnp.stack([self.value(p, obs, action, name=name) for name in ("first", "second")])

    def embed_time(self, p, t):  # random Fourier features of t, with frequencies that stay fixed
        angle = 2 * jnp.pi * t[..., None] * jax.lax.stop_gradient(p["frequencies"])
        return dense(p, "time", concat(jnp.sin(angle), jnp.cos(angle)), 32)

    def energy(self, p, noisy, t, obs):  # f(s, a_t, t), see `energy_update`
        x = concat(noisy, self.embed_time(p, t), obs)
        return mlp(p, x, (*ENERGY_HIDDEN, 1), activation=silu, gains=(None, None))[..., 0]

    def unet(self, p, noisy, t, obs):  # h(a_t, t, s) of CEP (arXiv 2304.12824; section 1)
        c = concat(self.embed_time(p, t), silu(dense(p, "obs", obs, 32)))
        c = silu(dense(p, "mixer1", silu(dense(p, "mixer0", c, 128)), 128))

        def block(name, x, size):
            h = silu(dense(p, f"{name}.first", x, size)) + dense(p, f"{name}.condition", c, size)
            h = silu(dense(p, f"{name}.second", h, size))
            return h + (x if x.shape[-1] == size else dense(p, f"{name}.skip", x, size))

        x, skips = noisy, []
        for i, size in enumerate(WIDTHS):
            skips.append(x := block(f"down{i}", x, size))
        x = block("middle", x, size)
        for i, size in enumerate(WIDTHS[-2::-1]):
            x = block(f"up{i}", concat(x, skips.pop()), size)
        return dense(p, "out", concat(x, skips.pop()), noisy.shape[-1])

    def init(self, obs_dim, act_dim):  # each network is applied once, which draws its weights
        np.random.seed(self.seed)
        obs, action, t = map(jnp.zeros, (obs_dim, act_dim, ()))

        def net(network, *inputs, **p):
            jax.eval_shape(lambda *x: network(p, *x), *inputs)
            return Net(p, jax.jit(optax.adam(LEARNING_RATE).init)(p))

        actor = net(self.policy, obs, log_std=np.zeros(act_dim, np.float32))
        value, critic = net(self.value, obs), net(self.critics, obs, action)
        frequencies = np.float32(30 * np.random.normal(size=(2, 16)))
        behaviour = net(self.unet, action, t, obs, frequencies=frequencies[0])
        energy = net(self.energy, action, t, obs, frequencies=frequencies[1])
        return Nets(actor, value, critic, critic.params, behaviour, behaviour.params, energy)

    # Score matching: E‖σ(t) score(a_t, t, s) + z‖², where the score is h/σ (section 1).
    def behaviour_update(self, nets, batch, key):
        noisy, t, noise = perturb(batch.action, batch.reward.shape, key)
        residual = lambda p: self.unet(p, noisy, t, batch.obs) + noise
        net, loss = adam(nets.behaviour, lambda p: jnp.square(residual(p)).sum(-1).mean())
        ema = jax.tree.map(lambda e, w: EMA * e + (1 - EMA) * w, nets.ema, net.params)
        return nets._replace(behaviour=net, ema=ema), loss

    # Contrastive energy prediction (CEP): f becomes log E[exp(β Q(s, a)) | a_t] up to a constant by
    # telling M actions of μ(·|s), the support actions, apart as Q does (section 2).
    def energy_update(self, nets, batch, key):
        obs = batch.obs[:, None]
        noisy, t, _ = perturb(batch.support, (len(obs), 1), key)
        target = softmax(INVERSE_TEMPERATURE * self.critics(nets.target, obs, batch.support).min(0))
        log_share = lambda p: log_softmax(self.energy(p, noisy, t, obs))
        net, loss = adam(nets.energy, lambda p: -(target * log_share(p)).sum(-1).mean())
        return nets._replace(energy=net), loss

    # Actions of μ(a|s), or with a guidance scale w of π_0(a|s) ∝ μ(a|s) exp(w β Q(s, a)), drawn by
    # DPM-Solver++ (2M) (arXiv 2211.01095, algorithm 2) in steps uniform in λ (section 3).
    def sample(self, nets, obs, noise, w=None):
        def score(a, t):
            own = self.unet(nets.ema, a, t, obs) / schedule(t)[1]
            guidance = jax.grad(lambda a: self.energy(nets.energy.params, a, t, obs).sum())
            return own if w is None else own + w * guidance(a)

        ends = -0.5 * np.log(np.expm1(-2 * log_alpha(np.array([1.0, T_MIN]))))
        lam = np.linspace(*ends, SOLVER_STEPS + 1)  # λ = log(α/σ)
        m = 2 * (BETA1 - BETA0) * np.logaddexp(0, -2 * lam)
        t = m / ((np.sqrt(BETA0**2 + m) + BETA0) * (BETA1 - BETA0))  # the inverse of λ(t)
        alpha, sigma = (1 + np.exp(-2 * lam)) ** -0.5, (1 + np.exp(2 * lam)) ** -0.5
        shrink, gain = sigma[1:] / sigma[:-1], alpha[1:] * (1 - np.exp(lam[0] - lam[1]))
        constants = jnp.float32([t[:-1], alpha[:-1], sigma[:-1], shrink, gain])

        def step(i, carry):
            x, previous = carry
            t, alpha, sigma, shrink, gain = constants[:, i]
            x0 = jnp.clip((x + sigma**2 * score(x, t)) / alpha, -1, 1)
            return shrink * x + gain * (x0 + jnp.where(i > 0, 0.5, 0) * (x0 - previous)), x0

        return jnp.clip(jax.lax.fori_loop(0, SOLVER_STEPS, step, (noise, 0 * noise))[0], -1, 1)

    # KL between Gaussians around the action and a guided sample; low: offline-like (section 4).
    def alignment_scores(self, nets, batch, key):
        noise = jr.normal(key, batch.action.shape)
        guided = self.sample(nets, batch.obs, noise, self.guidance_scale)
        return jnp.square(batch.action - guided).sum(-1) / (2 * 0.1**2)

    def split(self, scores):  # the order with the offline-like rows first; their number (section 5)
        k = int(self.rho * len(scores) + 0.5 + 1e-9)
        online_like = jnp.zeros(len(scores)).at[jnp.argsort(scores, stable=True)[k:]].set(1)
        return jnp.argsort(online_like, stable=True), k

    # IQL (arXiv 2110.06169), where the first k rows, by default all, are offline-like (section 6).
    def iql_update(self, nets, batch, key, k=np.inf):
        q = self.critics(nets.target, batch.obs, batch.action).min(0)
        # Equation 5: V by expectile regression; the paper's online-like rows have expectile 0.99.
        tau = jnp.where(jnp.arange(len(q)) < k, EXPECTILE, ONLINE_EXPECTILE)
        expectile = lambda u: jnp.abs(tau - (u < 0)) * jnp.square(u)
        value, v_loss = adam(nets.value, lambda p: expectile(q - self.value(p, batch.obs)).mean())
        # Equation 7: advantage-weighted regression.
        weight = jnp.exp(AWR_SCALE * (q - self.value(value.params, batch.obs))).clip(max=100)
        log_density = lambda p: norm.logpdf(batch.action, *self.policy(p, batch.obs)).sum(-1)
        actor, a_loss = adam(nets.actor, lambda p: -(weight * log_density(p)).mean())
        # Equation 6: the target r + γ V(s'); of online-like rows r + γ Q(s', a'), a' ~ π, with the
        # best of several a' (ten in the paper) where CANDIDATES says so.
        next_value = self.value(value.params, batch.next_obs)
        if k < len(q):
            next_obs = batch.next_obs[k:, None]
            mean, std = self.policy(nets.actor.params, next_obs)
            noise = jr.normal(key, (len(q) - k, CANDIDATES, mean.shape[-1]))
            next_q = self.critics(nets.target, next_obs, jnp.clip(mean + std * noise, -1, 1)).min(0)
            next_value = jnp.concatenate([next_value[:k], next_q.max(-1)])
        target = batch.reward + DISCOUNT * (1 - batch.terminal) * next_value
        error = lambda p: self.critics(p, batch.obs, batch.action) - target
        critic, q_loss = adam(nets.critic, lambda p: jnp.square(error(p)).sum(0).mean())
        target = jax.tree.map(lambda t, w: t + POLYAK * (w - t), nets.target, critic.params)
        return Nets(actor, value, critic, target, *nets[4:]), (v_loss, a_loss, q_loss)

    @jax.jit(static_argnums=(0, 1))
    def pretrain(self, name, nets, offline, steps):  # updates of one model on D_off
        def step(i, nets):
            batch_key, key = jr.split(self.key(name, i))
            rows = jr.randint(batch_key, (BATCH_SIZE,), 0, len(offline.reward))
            batch = jax.tree.map(lambda x: x[rows], offline)
            return getattr(self, f"{name}_update")(nets, batch, key)[0]

        return jax.lax.fori_loop(0, steps, step, nets)

    # Store a transition; update on a batch, half from D_off and half from D_on (section 7).
    @jax.jit(static_argnums=0, donate_argnums=3)
    def online_step(self, nets, offline, online, new, step):
        noise = jr.normal(self.key("support2", step), (SUPPORT_ACTIONS, len(new.action)))
        new = new._replace(support=self.sample(nets, new.obs, noise))
        online = jax.tree.map(lambda x, row: x.at[step].set(row), online, new)
        off_key, on_key = jr.split(self.key("batch", step))
        i = jr.randint(off_key, (BATCH_SIZE,), 0, len(offline.reward))
        j = jr.randint(on_key, (BATCH_SIZE,), 0, step + 1)
        off = (2 * jnp.arange(BATCH_SIZE) < BATCH_SIZE) | (step + 1 < ONLINE_WARMUP)
        batch = jax.tree.map(lambda x, y: jax.vmap(jnp.where)(off, x[i], y[j]), offline, online)
        order, k = self.split(self.alignment_scores(nets, batch, self.key("score", step)))
        nets, _ = self.energy_update(nets, batch, self.key("energy2", step))
        batch = jax.tree.map(lambda x: x[order], batch)
        return self.iql_update(nets, batch, self.key("agent", step), k)[0], online


def main(argv=None):
    parser = argparse.ArgumentParser(description="StratDiff with IQL on a locomotion data set.")
    for name, default in StratDiff._field_defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    c = StratDiff(**vars(parser.parse_args(argv)))
    if not 0 <= c.rho <= 1:
        parser.error(f"--rho is {c.rho}; it must be between 0 and 1.")
    dataset = load_dataset(c.dataset)
    task, env, rows = find_task(dataset.env_id), make_env(dataset.env_id), dataset.transitions
    (mean, std), scale = dataset.normalizer(), 1000 / np.ptp(dataset.episode_returns)
    normalize = lambda obs: np.float32((obs - mean) / std)
    obs, reward = normalize(dataset.observations), scale * dataset.rewards
    data = obs[rows], dataset.actions[rows], reward[rows], obs[rows + 1], dataset.terminals[rows]
    offline, policy = Batch(*map(jnp.float32, data)), jax.jit(c.policy)
    act = lambda obs: policy(nets.actor.params, normalize(obs))  # with the newest networks

    def reset(purpose, episode):
        seed = np.random.SeedSequence([c.seed, purpose, episode]).generate_state(1)[0]
        return env.reset(seed=int(seed >> 1))[0]

    def evaluate():
        total = 0.0
        for episode in range(EVAL_EPISODES):
            obs, ended = reset(1, episode), [False]
            while not any(ended):
                obs, reward, *ended, _ = env.step(np.array(act(obs)[0]))
                total += reward
        return task.score(total / EVAL_EPISODES)

    nets = c.pretrain("iql", c.init(task.obs_dim, task.action_dim), offline, c.offline_steps)
    nets = c.pretrain("behaviour", nets, offline, c.behaviour_steps)
    noise = lambda i: jr.normal(c.key("support", i), (SUPPORT_ACTIONS, task.action_dim))
    support = lambda i: c.sample(nets, offline.obs[i], noise(i))
    offline = offline._replace(support=jax.lax.map(support, jnp.arange(len(rows)), batch_size=1024))
    nets = c.pretrain("energy", nets, offline, c.energy_steps)
    print(f"score before fine-tuning: {(before := evaluate()):.1f}")
    online = jax.tree.map(lambda x: jnp.zeros((c.online_steps, *x.shape[1:])), offline)
    obs, episode = reset(0, 0), 0
    for step in range(c.online_steps):
        mode, deviation = act(obs)
        action = np.clip(mode + deviation * jr.normal(c.key("act", step), mode.shape), -1, 1)
        next_obs, reward, *ended, _ = env.step(np.array(action))
        new = Batch(normalize(obs), action, scale * reward, normalize(next_obs), float(ended[0]))
        nets, online = c.online_step(nets, offline, online, new, step)
        obs = reset(0, episode := episode + 1) if any(ended) else next_obs
    print(f"score after fine-tuning: {(after := evaluate()):.1f}")
    return before, after


if __name__ == "__main__":
    main()
