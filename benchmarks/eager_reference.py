"""The StratDiff online update in plain eager PyTorch: base IQL, alignment `guided`.

Nobody has published an implementation of StratDiff (arXiv 2511.03828), so this is the one that we
compare our speed with, written straight from the method's description the way a researcher would:
modules, `torch.optim.Adam` with its defaults, whole batches at once, `no_grad` where no gradient is
needed. Nothing is compiled or captured, and nothing is slow on purpose. It computes no metrics.
`tests/benchmarks/test_eager_reference.py` shows that its results are those of our JAX code, which
is why every function takes its random numbers as arguments; `EagerStratDiff.update` draws them.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# VP-SDE with the linear schedule.
BETA0, BETA1, T_MIN = 0.1, 20.0, 1e-3
# Standard deviation of the Gaussians whose KL divergence is the alignment score.
ALIGNMENT_STD = 0.1
MAX_ADVANTAGE_WEIGHT = 100.0


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are the method's for locomotion."""

    batch_size: int = 256
    rho: float = 0.5
    hidden: tuple[int, ...] = (256, 256)
    energy_hidden: tuple[int, ...] = (256, 256, 256, 256)
    unet_widths: tuple[int, ...] = (512, 256, 128)
    learning_rate: float = 3e-4
    discount: float = 0.99
    polyak: float = 0.005
    expectile: float = 0.7
    online_expectile: float = 0.99
    advantage_temperature: float = 3.0
    max_target_actions: int = 10
    inverse_temperature: float = 3.0
    guidance_scale: float = 3.0
    solver_steps: int = 15


class Transitions(NamedTuple):
    """Rows of (s, a, r, s', d)."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor

    def rows(self, index: Tensor) -> "Transitions":
        """The rows of `index`, in its order."""
        return Transitions(*(x[index] for x in self))


# --- Networks -------------------------------------------------------------------------------------


def mlp(n_in: int, hidden: Sequence[int], n_out: int, activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_in, width), activation()]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))


class FourierFeatures(nn.Module):
    """[sin 2πft, cos 2πft] with fixed random frequencies f ~ N(0, 30²)."""

    def __init__(self, n: int = 32, scale: float = 30.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(n // 2))

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ResidualBlock(nn.Module):
    """SiLU(W1 x) + Wc SiLU(c), then SiLU(W2 ·), plus a skip (linear where the widths differ)."""

    def __init__(self, n_in: int, n_out: int, n_condition: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, n_out)
        self.condition = nn.Linear(n_condition, n_out)
        self.second = nn.Linear(n_out, n_out)
        self.skip = nn.Identity() if n_in == n_out else nn.Linear(n_in, n_out)

    def forward(self, x: Tensor, silu_c: Tensor) -> Tensor:
        h = F.silu(self.first(x)) + self.condition(silu_c)
        return F.silu(self.second(h)) + self.skip(x)


class DenseUNet(nn.Module):
    """The body h(a_t, t, s) of the behaviour model's score network, s_θ = h / σ(t)."""

    def __init__(self, obs_dim: int, action_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.time_features = FourierFeatures(32)
        self.time_embedding = nn.Linear(32, 32)
        self.obs_embedding = nn.Linear(obs_dim, 32)
        self.mixer = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        ins = [action_dim, *widths[:-1]]
        self.down = nn.ModuleList(
            ResidualBlock(a, b, 128) for a, b in zip(ins, widths, strict=True)
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], 128)
        levels = list(reversed(widths))
        pairs = zip(levels[:-1], levels[1:], strict=True)
        self.up = nn.ModuleList(ResidualBlock(2 * a, b, 128) for a, b in pairs)
        self.out = nn.Linear(2 * widths[0], action_dim)

    def forward(self, noisy: Tensor, t: Tensor, obs: Tensor) -> Tensor:
        """`noisy` (B, A), `t` a scalar, `obs` (B, S)."""
        time = self.time_embedding(self.time_features(t)).expand(len(obs), -1)
        state = F.silu(self.obs_embedding(obs))
        silu_c = F.silu(self.mixer(torch.cat([time, state], dim=-1)))
        x, skips = noisy, []
        for block in self.down:
            x = block(x, silu_c)
            skips.append(x)
        x = self.middle(x, silu_c)
        for block in self.up:
            x = block(torch.cat([x, skips.pop()], dim=-1), silu_c)
        return self.out(torch.cat([x, skips.pop()], dim=-1))


class EnergyNet(nn.Module):
    """f(s, a_t, t); `obs` and `t` broadcast against the batch dimensions of the actions."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.time_features = FourierFeatures(32)
        self.time_embedding = nn.Linear(32, 32)
        self.net = mlp(action_dim + 32 + obs_dim, hidden, 1, nn.SiLU)

    def forward(self, obs: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        batch = noisy.shape[:-1]
        time = self.time_embedding(self.time_features(t)).expand(*batch, -1)
        return self.net(torch.cat([noisy, time, obs.expand(*batch, -1)], dim=-1)).squeeze(-1)


class Critic(nn.Module):
    """Q(s, a); `obs` broadcasts against the batch dimensions of the actions."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp(obs_dim + action_dim, hidden, 1, nn.ReLU)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        obs = obs.expand(*action.shape[:-1], -1)
        return self.net(torch.cat([obs, action], dim=-1)).squeeze(-1)


class GaussianPolicy(nn.Module):
    """Gaussian with mean tanh(net(s)) and a state-independent log standard deviation."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp(obs_dim, hidden, action_dim, nn.ReLU)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation."""
        return torch.tanh(self.net(obs)), self.log_std.clamp(-5.0, 2.0)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-density of an action."""
        mean, log_std = self(obs)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + 0.5 * math.log(2 * math.pi) + log_std).sum(-1)

    def sample_n(self, obs: Tensor, noise: Tensor) -> Tensor:
        """N actions per state from `noise` (B, N, A), cut to [-1, 1]."""
        mean, log_std = self(obs)
        return (mean[:, None] + log_std.exp() * noise).clamp(-1.0, 1.0)


# --- Diffusion ------------------------------------------------------------------------------------


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scale of a_t = α(t) a + σ(t) z."""
    log_alpha = -(BETA1 - BETA0) * t**2 / 4 - BETA0 * t / 2
    return log_alpha.exp(), torch.sqrt(-torch.expm1(2 * log_alpha))


def guided_actions(
    score_net: DenseUNet,
    energy_net: EnergyNet,
    obs: Tensor,
    noise: Tensor,
    guidance_scale: float = 3.0,
    steps: int = 15,
) -> Tensor:
    """One action per state by DPM-Solver++ (2M) with the score s_θ + w ∇f, λ uniform."""
    alphas, sigmas = alpha_sigma(torch.tensor([1.0, T_MIN]))
    ends = torch.log(alphas / sigmas).tolist()
    lambdas = torch.linspace(*ends, steps + 1, device=obs.device)
    m = 2 * (BETA1 - BETA0) * F.softplus(-2 * lambdas)
    times = m / ((torch.sqrt(BETA0**2 + m) + BETA0) * (BETA1 - BETA0))
    alphas, sigmas = alpha_sigma(times)
    # Python numbers: what follows is scalar arithmetic on the host.
    alpha, sigma, lam = alphas.tolist(), sigmas.tolist(), lambdas.tolist()
    x, previous, h_previous = noise, None, 0.0
    for i in range(steps):
        noisy = x.detach().requires_grad_()
        gradient = torch.autograd.grad(energy_net(obs, noisy, times[i]).sum(), noisy)[0]
        with torch.no_grad():
            score = score_net(x, times[i], obs) / sigma[i] + guidance_scale * gradient
            x0 = ((x + sigma[i] ** 2 * score) / alpha[i]).clamp(-1.0, 1.0)
            h = lam[i + 1] - lam[i]
            data = x0 if previous is None else x0 + h / (2 * h_previous) * (x0 - previous)
            x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * data
        previous, h_previous = x0, h
    return x.clamp(-1.0, 1.0)


def contrastive_loss(
    energy_net: EnergyNet, obs: Tensor, support: Tensor, beta_q: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Contrastive energy prediction over the M support actions of a state.

    `support` and `noise` (B, M, A), `beta_q` (B, M), one `t` per state (B, 1).
    """
    alpha, sigma = alpha_sigma(t)
    noisy = alpha[..., None] * support + sigma[..., None] * noise
    log_weights = F.log_softmax(energy_net(obs[:, None], noisy, t), dim=-1)
    return -(F.softmax(beta_q, dim=-1) * log_weights).sum(-1).mean()


# --- Stratification -------------------------------------------------------------------------------


def alignment(action: Tensor, guided_action: Tensor) -> Tensor:
    """KL divergence of two Gaussians of one variance around the actions. Low: offline-like."""
    return (action - guided_action).square().sum(-1) / (2 * ALIGNMENT_STD**2)


def stratified_order(score: Tensor) -> Tensor:
    """The order that puts the offline-like rows first."""
    return torch.argsort(score, stable=True)


# --- The algorithm --------------------------------------------------------------------------------


class EagerStratDiff:
    """Networks, optimisers and one online update. `score_net` is trained beforehand and frozen.

    `offline` and `online` are D_off and D_on, each with the M stored support actions of every row
    (rows, M, A).
    """

    def __init__(
        self,
        offline: tuple[Transitions, Tensor],
        online: tuple[Transitions, Tensor],
        config: Config | None = None,
    ) -> None:
        self.config = c = config or Config()
        self.offline, self.online = offline, online
        self.k = round(c.rho * c.batch_size)
        obs, action = offline[0].obs, offline[0].action
        dims, self.device = (obs.shape[-1], action.shape[-1]), obs.device

        self.score_net = DenseUNet(*dims, c.unet_widths).requires_grad_(False).to(self.device)
        self.energy_net = EnergyNet(*dims, c.energy_hidden).to(self.device)
        self.actor = GaussianPolicy(*dims, c.hidden).to(self.device)
        self.value = mlp(dims[0], c.hidden, 1, nn.ReLU).to(self.device)
        self.critics = nn.ModuleList(Critic(*dims, c.hidden) for _ in range(2)).to(self.device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

        def adam(module: nn.Module) -> torch.optim.Adam:
            return torch.optim.Adam(module.parameters(), lr=c.learning_rate)

        self.energy_opt, self.actor_opt = adam(self.energy_net), adam(self.actor)
        self.value_opt, self.critic_opt = adam(self.value), adam(self.critics)
        row = torch.arange(c.batch_size, device=self.device)
        # The expectile of every row of a stratified batch.
        self.tau = torch.where(row < self.k, c.expectile, c.online_expectile)

    def update(self) -> None:
        """One online update: draw, align, stratify, energy, IQL."""
        c, device = self.config, self.device
        batch, support = self.sample_batch()
        noise = torch.randn(batch.action.shape, device=device)
        guided = guided_actions(
            self.score_net, self.energy_net, batch.obs, noise, c.guidance_scale, c.solver_steps
        )
        order = stratified_order(alignment(batch.action, guided))
        t = T_MIN + (1 - T_MIN) * torch.rand(c.batch_size, 1, device=device)
        self.energy_update(batch.obs, support, t, torch.randn(support.shape, device=device))
        n_online, action_dim = c.batch_size - self.k, batch.action.shape[-1]
        noise = torch.randn(n_online, c.max_target_actions, action_dim, device=device)
        self.iql_update(batch.rows(order), noise)

    def sample_batch(self) -> tuple[Transitions, Tensor]:
        """Half a batch from D_off, half from D_on, with their support actions."""
        half = self.config.batch_size // 2
        rows, supports = [], []
        for transitions, support in (self.offline, self.online):
            index = torch.randint(len(support), (half,), device=self.device)
            rows.append(transitions.rows(index))
            supports.append(support[index])
        return Transitions(*(torch.cat(pair) for pair in zip(*rows, strict=True))), torch.cat(
            supports
        )

    @torch.no_grad()
    def target_q(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_k Q̄_k(s, a) of the target critics."""
        first, second = self.target_critics
        return torch.minimum(first(obs, action), second(obs, action))

    def energy_update(self, obs: Tensor, support: Tensor, t: Tensor, noise: Tensor) -> None:
        """One step of contrastive energy prediction with the current target critics."""
        beta_q = self.config.inverse_temperature * self.target_q(obs[:, None], support)
        loss = contrastive_loss(self.energy_net, obs, support, beta_q, t, noise)
        step(self.energy_opt, loss)

    def iql_update(self, batch: Transitions, candidate_noise: Tensor) -> None:
        """The stratified IQL update; the first k rows of `batch` are offline-like.

        `candidate_noise` (B - k, N, A) draws the candidates of the online-like rows' max-Q target.
        """
        c, k = self.config, self.k
        q = self.target_q(batch.obs, batch.action)

        difference = q - self.value(batch.obs).squeeze(-1)
        weight = (self.tau - (difference < 0).float()).abs()
        step(self.value_opt, (weight * difference.square()).mean())

        with torch.no_grad():
            advantage = q - self.value(batch.obs).squeeze(-1)
            weight = torch.exp(c.advantage_temperature * advantage).clamp(max=MAX_ADVANTAGE_WEIGHT)
            # Before the actor's step, as the candidates come from the current policy.
            candidates = self.actor.sample_n(batch.next_obs[k:], candidate_noise)
            best = self.target_q(batch.next_obs[k:, None], candidates).amax(-1)
            next_value = torch.cat([self.value(batch.next_obs[:k]).squeeze(-1), best])
            target = batch.reward + c.discount * (1 - batch.terminal) * next_value

        step(self.actor_opt, -(weight * self.actor.log_prob(batch.obs, batch.action)).mean())

        errors = [F.mse_loss(critic(batch.obs, batch.action), target) for critic in self.critics]
        step(self.critic_opt, errors[0] + errors[1])

        with torch.no_grad():
            targets, critics = self.target_critics.parameters(), self.critics.parameters()
            for target_weight, weight in zip(targets, critics, strict=True):
                target_weight.lerp_(weight, c.polyak)


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One gradient step."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
