"""A compiled step whose state stays flat between calls.

Taking a state's modules apart and putting them together at every step takes Python longer than the
dispatch itself (docs/performance.md).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import PyTreeDef
from jaxtyping import PyTree


@functools.lru_cache(maxsize=8)
def _compiled(
    step: Callable[..., PyTree], carry: PyTreeDef, constant: PyTreeDef
) -> Callable[..., list[Any]]:
    def flat(leaves: list[Any], constants: list[Any], *new: PyTree) -> list[Any]:
        trees = jax.tree.unflatten(carry, leaves), jax.tree.unflatten(constant, constants)
        return jax.tree.leaves(step(*trees, *new))

    return jax.jit(flat, donate_argnums=0)


class Carried:
    """`carry = step(carry, constant, *new)`, compiled once a `step`; the carry is donated."""

    def __init__(self, step: Callable[..., PyTree], carry: PyTree, constant: PyTree) -> None:
        self._leaves, self._carry = jax.tree.flatten(carry)
        self._constants, constants = jax.tree.flatten(constant)
        self._call = _compiled(step, self._carry, constants)
        self._index = jax.tree.unflatten(self._carry, range(len(self._leaves)))

    def __call__(self, *new: PyTree) -> None:
        """One step."""
        self._leaves = self._call(self._leaves, self._constants, *new)

    @property
    def carry(self) -> PyTree:
        """The carry as it is now; the next step donates its arrays."""
        return jax.tree.unflatten(self._carry, self._leaves)

    @carry.setter
    def carry(self, carry: PyTree) -> None:
        self._leaves = self._carry.flatten_up_to(carry)

    def leaf(self, where: Callable[[PyTree], int]) -> Any:
        """One array of the carry."""
        return self._leaves[where(self._index)]
