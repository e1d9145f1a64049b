"""Exported policies act as the NumPy policy does, in the environment's own units."""

import runpy
import sys

import numpy as np
import pytest

from stratdiff.cli import main
from stratdiff.deploy import numpy_source, onnx_model
from stratdiff.errors import UserError
from stratdiff.policy import Policy

OBS, ACT = 5, 2
LOW, HIGH = [-2.0, 0.0], [2.0, 0.5]


def make_policy(kind, policies=1, **about):
    rng = np.random.default_rng(4)
    sizes = [OBS, 16, 12, ACT * (2 if kind == "squashed" else 1)]
    layers = [
        (rng.normal(0, 0.6, (policies, a, b)), rng.normal(0, 0.3, (policies, b)))
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers]
    mean, std = rng.normal(size=OBS), rng.uniform(0.5, 2, OBS)
    log_std = np.zeros((policies, ACT), np.float32) if kind == "gaussian" else None
    known = {"phase": "online", "step": 120, "seed": 3, "seeds": [3, 5][:policies], **about}
    return Policy(kind, layers, mean.astype("f4"), std.astype("f4"), log_std, known)


def naive(policy, obs, i=0):
    """The deterministic action of one state, in the environment's units, in float64."""
    x = (obs - policy.obs_mean) / policy.obs_std
    for weight, bias in policy.layers[:-1]:
        x = np.maximum(x @ weight[i].astype(float) + bias[i], 0)
    weight, bias = policy.layers[-1]
    unit = np.tanh(x @ weight[i].astype(float) + bias[i])[:ACT]
    low, high = np.array(LOW), np.array(HIGH)
    return low + (unit + 1) / 2 * (high - low)


STATES = np.random.default_rng(5).normal(size=(40, OBS)).astype(np.float32)


@pytest.fixture(params=["squashed", "gaussian"])
def policy(request):
    return make_policy(request.param, action_low=LOW, action_high=HIGH)


@pytest.fixture
def expected(policy):
    return np.stack([naive(policy, obs) for obs in STATES])


def test_actions_are_in_the_environments_units(policy, expected):
    np.testing.assert_allclose(policy.act(STATES), expected, atol=1e-6)
    one = policy.act(STATES[3])
    assert one.shape == (ACT,) and one.dtype == np.float32
    np.testing.assert_allclose(one, expected[3], atol=1e-6)
    assert (policy.act(1e6 * STATES) >= LOW).all() and (policy.act(1e6 * STATES) <= HIGH).all()


def test_without_bounds_they_are_in_the_unit_box(policy):
    plain = make_policy(policy.kind)
    np.testing.assert_array_equal(plain.act(STATES[0]), plain(STATES[0]))


def test_a_python_file_needs_numpy_alone(policy, expected, tmp_path, monkeypatch):
    path = tmp_path / "policy.py"
    path.write_text(numpy_source(policy))
    for name in [name for name in sys.modules if name.split(".")[0] in ("jax", "stratdiff")]:
        monkeypatch.setitem(sys.modules, name, None)
    act = runpy.run_path(str(path))["act"]
    np.testing.assert_allclose(act(STATES), expected, atol=1e-6)
    np.testing.assert_allclose(act(STATES[7]), expected[7], atol=1e-6)
    # A list of Python's own numbers, as a driver of a robot may have it.
    np.testing.assert_allclose(act(STATES[7].tolist()), expected[7], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_an_onnx_model(policy, expected, rows):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(onnx_model(policy))
    (action,) = session.run(["action"], {"obs": STATES[:rows]})
    spread = np.subtract(HIGH, LOW)
    np.testing.assert_allclose(action / spread, expected[:rows] / spread, rtol=0, atol=1e-6)


def test_the_command(tmp_path, capsys):
    both = make_policy("gaussian", policies=2, action_low=LOW, action_high=HIGH)
    both.save(tmp_path / "policy.safetensors")
    out = tmp_path / "second.py"
    assert main(["export", str(tmp_path), "--numpy", str(out), "--seed", "5"]) == 0
    act = runpy.run_path(str(out))["act"]
    np.testing.assert_allclose(act(STATES[2]), naive(both, STATES[2], 1), atol=1e-6)
    assert "seed 5" in out.read_text() and str(out) in capsys.readouterr().out
    assert main(["export", str(tmp_path), "--numpy", str(out)]) == 0
    act = runpy.run_path(str(out))["act"]
    np.testing.assert_allclose(act(STATES[2]), naive(both, STATES[2], 0), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "export needs --numpy FILE.py, --onnx FILE.onnx, or both"),
        (["--numpy", "out.py", "--seed", "4"], "has no policy of seed 4; it holds those of 3, 5"),
    ],
)
def test_mistakes(tmp_path, capsys, options, said):
    make_policy("gaussian", policies=2).save(tmp_path / "policy.safetensors")
    assert main(["export", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["policy.safetensors"]


def test_a_run_directory_without_a_policy(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--numpy", str(tmp_path / "out.py")]) == 2
    assert "policy.safetensors" in capsys.readouterr().err


def test_onnx_that_is_not_installed(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'stratdiff\[onnx\]'"):
        onnx_model(policy)


@pytest.mark.parametrize(
    "bounds",
    [
        {"action_low": [1.0, 0.0], "action_high": [0.5, 1.0]},
        {"action_low": [0.0], "action_high": [1.0]},
        {"action_low": ["a", "b"], "action_high": [1.0, 1.0]},
        {"action_low": [[0.0, 0.0]], "action_high": [[1.0, 1.0]]},
    ],
)
def test_bounds_that_cannot_be(tmp_path, bounds):
    make_policy("gaussian", **bounds).save(tmp_path / "policy.safetensors")
    with pytest.raises(UserError, match="is not a policy of this package"):
        Policy.load(tmp_path / "policy.safetensors")
