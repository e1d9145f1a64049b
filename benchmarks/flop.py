"""The arithmetic of a computation: multiplications and additions of its matrix products."""

import math
from collections import Counter
from typing import Any

import jax


def count(function: Any, *args: Any) -> dict[str, float]:
    """Floating-point operations of all matrix products of function(*args), by type of operand.

    Loops count their length times, those of unknown length once, of branches the costliest one.
    Everything else (activations, Adam, random numbers) is not counted: what a machine needs at
    least, not what it does.
    """
    return dict(_count(jax.make_jaxpr(function)(*args).jaxpr))


def _count(jaxpr: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            depth = math.prod(left.shape[i] for i in contracted)
            total[str(left.dtype)] += 2 * depth * math.prod(out.shape)
            continue
        inner = [_count(j) for j in _jaxprs(params)]
        if not inner:
            continue
        if name == "cond":
            part = max(inner, key=lambda c: sum(c.values()))
        else:
            part = sum(inner, Counter())
        times = params["length"] if name == "scan" else 1
        total.update({kind: times * n for kind, n in part.items()})
    return total


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """The computations inside of an equation; not the rules of its derivative."""
    found = []
    for name, value in params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun", "jvp_jaxpr_thunk"):
            continue
        for item in value if isinstance(value, tuple | list) else [value]:
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found
