"""Trained policies for other programs: one Python file without dependencies but NumPy, or ONNX.

Both take states as the environment gives them and return the deterministic action within the
environment's bounds, as `Policy.act` does: normalisation and scaling are inside.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.errors import UserError
from stratdiff.files import replacing
from stratdiff.policy import Policy

_NUMPY = '''\
"""{title}

act(obs) -> action: obs is one state of {obs_dim} numbers or a batch (n, {obs_dim}), as the
environment gives it; the action has {action_dim} numbers, {within}.
Written by `stratdiff export`. It needs NumPy and nothing else.
"""

import numpy as np


def _array(text, *shape):
    return np.frombuffer(bytes.fromhex(text), "<f4").reshape(shape)


MEAN = {mean}
STD = {std}
LOW = {low}
HIGH = {high}
LAYERS = [
{layers}
]


def act(obs):
    """The deterministic action in a state, or in each of a batch of states."""
    x = ((np.asarray(obs) - MEAN) / STD).astype(np.float32)
    for weight, bias in LAYERS[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    weight, bias = LAYERS[-1]
    unit = np.tanh(x @ weight + bias)
    return np.clip(LOW + (HIGH - LOW) * (unit + 1) / 2, LOW, HIGH).astype(np.float32)
'''


def _layers(policy: Policy) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each layer of one policy; of the last only what makes the mean."""
    layers = [(weight[0], bias[0]) for weight, bias in policy.layers]
    if policy.kind == "squashed":
        weight, bias = layers[-1]
        half = len(bias) // 2
        layers[-1] = weight[:, :half], bias[:half]
    return layers


def _title(policy: Policy) -> str:
    about = policy.metadata
    said = [f"A policy for {about.get('environment') or 'an unnamed environment'}"]
    said += [f"{key} {about[key]}" for key in ("seed", "phase", "step") if key in about]
    return ", ".join(said)


def numpy_source(policy: Policy) -> str:
    """The source of a Python module whose `act` is this policy, the first one."""

    def text(array: Any) -> str:
        array = np.asarray(array, "<f4")
        return ", ".join([f'_array("{array.tobytes().hex()}"', *map(str, array.shape)]) + ")"

    low, high = policy.bounds
    layers = _layers(policy)
    unit = (low == -1).all() and (high == 1).all()
    return _NUMPY.format(
        title=_title(policy).replace("\\", "").replace('"', "'") + ".",
        obs_dim=len(policy.obs_mean),
        action_dim=len(low),
        within="each in [-1, 1]" if unit else "within LOW and HIGH",
        mean=text(policy.obs_mean),
        std=text(policy.obs_std),
        low=text(low),
        high=text(high),
        layers="\n".join(f"    ({text(weight)}, {text(bias)})," for weight, bias in layers),
    )


def onnx_model(policy: Policy) -> bytes:
    """An ONNX model of this policy, the first one: `obs` (n, S) float32 to `action` (n, A).

    Raises:
        UserError: the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError(
            "--onnx needs the package onnx, which is not installed; "
            "pip install 'stratdiff[onnx]' adds it."
        ) from error
    arrays: dict[str, np.ndarray] = {}
    nodes = []

    def node(kind: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [output]))
        return output

    def constant(name: str, array: Any) -> str:
        arrays[name] = np.asarray(array, np.float32)
        return name

    x = node("Sub", ["obs", constant("mean", policy.obs_mean)], "centred")
    x = node("Div", [x, constant("std", policy.obs_std)], "normal")
    layers = _layers(policy)
    for i, (weight, bias) in enumerate(layers):
        names = [constant(f"weight{i}", weight), constant(f"bias{i}", bias)]
        x = node("Gemm", [x, *names], f"layer{i}")
        if i < len(layers) - 1:
            x = node("Relu", [x], f"hidden{i}")
    x = node("Tanh", [x], "unit")
    low, high = (bound.astype(np.float64) for bound in policy.bounds)
    x = node("Mul", [x, constant("half_range", (high - low) / 2)], "scaled")
    x = node("Add", [x, constant("middle", (high + low) / 2)], "moved")
    x = node("Max", [x, constant("low", low)], "bounded")
    node("Min", [x, constant("high", high)], "action")
    sizes = {"obs": len(policy.obs_mean), "action": len(low)}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in sizes.items()
    }
    graph = helper.make_graph(
        nodes,
        "policy",
        [values["obs"]],
        [values["action"]],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="stratdiff")
    model.doc_string = _title(policy)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def write(policy: Policy, path: Path, form: Callable[[Policy], str | bytes]) -> None:
    """Write the policy in this form: beside, then renamed.

    Raises:
        RunStopped: it cannot be written.
        UserError: see `onnx_model`.
    """
    found = form(policy)
    with replacing(path) as partial:
        partial.write_bytes(found.encode() if isinstance(found, str) else found)
