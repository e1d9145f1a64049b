"""The variance-preserving SDE that turns actions into noise (arXiv 2011.13456).

With the linear schedule β(t) = β0 + t (β1 - β0) the perturbed action is a_t = α(t) a + σ(t) z.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class VPSDE:
    """Noise schedule on t in [t_min, 1]; every method works elementwise on any shape.

    What the solver's constants need, λ and its inverse, is float64 in NumPy.
    """

    beta0: float = 0.1
    beta1: float = 20.0
    t_min: float = 1e-3

    def log_alpha(
        self, t: Float[Array | np.ndarray, "*batch"]
    ) -> Float[Array | np.ndarray, "*batch"]:
        """Log α(t) = -(β1 - β0) t²/4 - β0 t/2."""
        return -(self.beta1 - self.beta0) * t**2 / 4 - self.beta0 * t / 2

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Signal scale α(t)."""
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Noise scale σ(t) = sqrt(1 - α(t)²)."""
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))

    def lam(self, t: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """λ(t) = log(α/σ), half the log signal-to-noise ratio; falls with t."""
        log_alpha = np.asarray(self.log_alpha(t))
        return log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))

    def inverse_lam(self, lam: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """The t with λ(t) = lam, in closed form (DPM-Solver, arXiv 2206.00927, appendix D.4)."""
        slope = self.beta1 - self.beta0
        m = 2 * slope * np.logaddexp(0.0, -2 * lam)
        return m / ((np.sqrt(self.beta0**2 + m) + self.beta0) * slope)

    def perturb(
        self,
        action: Float[Array, "*batch act"],
        t: Float[Array, "*#batch"],
        noise: Float[Array, "*batch act"],
    ) -> Float[Array, "*batch act"]:
        """a_t = α(t) a + σ(t) z."""
        return self.alpha(t)[..., None] * action + self.sigma(t)[..., None] * noise
