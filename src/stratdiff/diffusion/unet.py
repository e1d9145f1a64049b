"""The network of the behaviour model: CEP's dense U-Net (arXiv 2304.12824)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.nn import FourierFeatures, Linear


class ResidualBlock(eqx.Module):
    """SiLU(W1 x) + Wc SiLU(c), then SiLU(W2 ·), plus a skip (linear where the widths differ)."""

    first: Linear
    condition: Linear
    second: Linear
    skip: Linear | None

    def __init__(self, n_in: int, n_out: int, n_condition: int, key: PRNGKeyArray) -> None:
        k1, k2, k3, k4 = jax.random.split(key, 4)
        self.first = Linear(n_in, n_out, k1)
        self.condition = Linear(n_condition, n_out, k2)
        self.second = Linear(n_out, n_out, k3)
        self.skip = None if n_in == n_out else Linear(n_in, n_out, k4)

    def __call__(
        self, x: Float[Array, "*batch in"], silu_c: Float[Array, "*#batch cond"]
    ) -> Float[Array, "*batch out"]:
        h = jax.nn.silu(self.first(x)) + self.condition(silu_c)
        h = jax.nn.silu(self.second(h))
        return h + (x if self.skip is None else self.skip(x))


class DenseUNet(eqx.Module):
    """The score network's body h_θ(a_t, t, s): the dense U-Net of CEP (arXiv 2304.12824).

    Down A→w0→w1→w2, middle w2→w2, up to w1 and w0, a linear layer to A. Every up step also sees the
    output of the down block of its level. About 1.6 M weights at the default widths.
    """

    time_features: FourierFeatures
    time_embedding: Linear
    obs_embedding: Linear
    mixer: tuple[Linear, Linear]
    down: list[ResidualBlock]
    middle: ResidualBlock
    up: list[ResidualBlock]
    out: Linear

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        key: PRNGKeyArray,
        widths: Sequence[int] = (512, 256, 128),
    ) -> None:
        embedding, condition = 32, 128
        keys = iter(jax.random.split(key, 6 + 2 * len(widths)))
        self.time_features = FourierFeatures(embedding, next(keys))
        self.time_embedding = Linear(embedding, embedding, next(keys))
        self.obs_embedding = Linear(obs_dim, embedding, next(keys))
        self.mixer = (
            Linear(2 * embedding, condition, next(keys)),
            Linear(condition, condition, next(keys)),
        )
        ins = [action_dim, *widths[:-1]]
        self.down = [
            ResidualBlock(a, b, condition, next(keys)) for a, b in zip(ins, widths, strict=True)
        ]
        self.middle = ResidualBlock(widths[-1], widths[-1], condition, next(keys))
        levels = list(widths)[::-1]
        self.up = [
            ResidualBlock(2 * a, b, condition, next(keys))
            for a, b in zip(levels[:-1], levels[1:], strict=True)
        ]
        self.out = Linear(2 * widths[0], action_dim, next(keys))

    def __call__(
        self,
        noisy_action: Float[Array, "*batch act"],
        t: Float[Array, "*#batch"],
        obs: Float[Array, "*#batch obs"],
    ) -> Float[Array, "*batch act"]:
        """h_θ. `t` and `obs` broadcast, so states shared by many actions are embedded once."""
        time = self.time_embedding(self.time_features(t))
        state = jax.nn.silu(self.obs_embedding(obs))
        shape = jnp.broadcast_shapes(time.shape[:-1], state.shape[:-1])
        both = [jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (time, state)]
        first, second = self.mixer
        c = jax.nn.silu(second(jax.nn.silu(first(jnp.concatenate(both, axis=-1)))))
        x, skips = noisy_action, []
        for block in self.down:
            x = block(x, c)
            skips.append(x)
        x = self.middle(x, c)
        for up in self.up:
            x = up(jnp.concatenate([x, skips.pop()], axis=-1), c)
        return self.out(jnp.concatenate([x, skips.pop()], axis=-1))
