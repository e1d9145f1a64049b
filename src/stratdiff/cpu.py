"""What only a CPU needs: blocks that stay in its cache, seeds in turn, arrays used in place.

On other devices each of these functions is the plain one (measured: docs/performance.md).
"""

import functools
import math
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int, PyTree

T = TypeVar("T", bound=PyTree)
Rows = TypeVar("Rows", bound=PyTree)
Sums = dict[str, Float[Array, ""]]

# Rows taken at a time: 30 actions of 32 states in two layers of 256 are 2 MB, about a core's
# second-level cache; forward alone, twice as many are best.
BLOCK = 32
FORWARD_BLOCK = 64
# Addresses at which JAX uses a NumPy array without a copy.
_ALIGNMENT = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """`np.empty` at an address that JAX's CPU backend needs to use an array without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def processor() -> str:
    """The processor and its instructions, as Linux lists them; elsewhere what Python knows."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in about.splitlines() if line.startswith(kept)}))


@functools.cache
def low_precision() -> Any:
    """What matrix products in low precision take: bfloat16, on a CPU without it float32.

    A CPU without instructions for bfloat16 converts every number, which takes longer than float32.
    """
    has = jax.default_backend() != "cpu" or re.search(r"\b(\w+_)?bf16\b", processor())
    return jnp.bfloat16 if has else jnp.float32


def _here() -> bool:
    """Whether programs run on a CPU.

    `jax.lax.platform_dependent` would decide at compile time, but it traces both forms.
    """
    return jax.default_backend() == "cpu"


def has_low_product(transposed: bool, columns: int) -> bool:
    """Whether XLA has the bfloat16 product of a matrix with one of so many columns.

    For CPUs it lacks (jaxlib 0.10: "Unsupported element type") those of a transpose, as in the
    gradient by weights, and those with a vector.
    """
    return not _here() or not (transposed or columns == 1)


def over_seeds(function: Callable[..., T], *arrays: PyTree) -> T:
    """`function` of each seed: all arrays have the seeds as their leading axis.

    As `jax.vmap(function)(*arrays)`; but on a CPU the seeds take turns, as the values of all of
    them leave its cache. Each then has the bits of a run of its own.
    """
    if not _here():
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda one: function(*one), arrays)


def over_states(
    function: Callable[[T, Array, Array], Float[Array, "critics *batch n"]],
    params: T,
    obs: Float[Array, "batch obs"],
    actions: Float[Array, "batch n act"],
) -> Float[Array, "critics batch n"]:
    """`function(params, obs, actions)`, without a gradient.

    On a CPU it is taken in blocks of states, and under `vmap` over seeds they take turns.
    """
    if not _here():
        return function(params, obs, actions)

    @sequential_vmap
    def blocks(
        params: T, obs: Float[Array, "batch obs"], actions: Float[Array, "batch n act"]
    ) -> Float[Array, "critics batch n"]:
        rows = jax.lax.map(
            lambda row: function(params, *row), (obs, actions), batch_size=FORWARD_BLOCK
        )
        return jnp.moveaxis(rows, 1, 0)

    return blocks(params, obs, actions)


def sum_and_grad(
    loss: Callable[[T, Rows], tuple[Float[Array, ""], Sums]],
    params: T,
    rows: Rows,
    count: Int[Array, ""] | None = None,
) -> tuple[tuple[Float[Array, ""], Sums], T]:
    """Value and gradient by `params` of a loss that is a sum over rows, and its further sums.

    As `jax.value_and_grad(loss, has_aux=True)`; but on a CPU the sum is taken in blocks of
    `BLOCK` rows, so that the layers' values stay in its cache. With `count`, only the first rows
    count: the loss has to be 0 for the others, and on a CPU blocks of such rows are skipped.
    """
    whole = jax.value_and_grad(loss, has_aux=True)
    if not _here():
        return whole(params, rows)

    def counted(
        params: T, rows: Rows, count: Int[Array, ""]
    ) -> tuple[tuple[Float[Array, ""], Sums], T]:
        def add(
            i: Int[Array, ""], total: tuple[tuple[Float[Array, ""], Sums], T]
        ) -> tuple[tuple[Float[Array, ""], Sums], T]:
            block = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, i * BLOCK, BLOCK), padded
            )
            return jax.tree.map(jnp.add, total, whole(params, block))

        n = len(jax.tree.leaves(rows)[0])
        padded = jax.tree.map(
            lambda x: jnp.pad(x, [(0, -n % BLOCK), *[(0, 0)] * (x.ndim - 1)]), rows
        )
        shapes = jax.eval_shape(whole, params, rows)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, (count + BLOCK - 1) // BLOCK, add, zero)

    def blocks(params: T, rows: Rows) -> tuple[tuple[Float[Array, ""], Sums], T]:
        n = len(jax.tree.leaves(rows)[0])
        full = n - n % BLOCK
        shaped = jax.tree.map(lambda x: x[:full].reshape(-1, BLOCK, *x.shape[1:]), rows)
        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(whole, params, rows)
        )
        total, _ = jax.lax.scan(
            lambda total, block: (jax.tree.map(jnp.add, total, whole(params, block)), None),
            zero,
            shaped,
        )
        if full < n:
            rest = jax.tree.map(lambda x: x[full:], rows)
            total = jax.tree.map(jnp.add, total, whole(params, rest))
        return total

    return blocks(params, rows) if count is None else counted(params, rows, count)
