"""Time of one action of an exported policy: `python -m benchmarks.latency [RUN]`.

Without a run it is a policy of the paper's size for HalfCheetah with random weights. Median and
99th percentile of single calls, on one thread.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

import argparse
import runpy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stratdiff.deploy import numpy_source, onnx_model
from stratdiff.policy import Policy


def random_policy(obs: int = 17, act: int = 6, width: int = 256) -> Policy:
    """Two hidden layers, as IQL's and Cal-QL's in the paper preset."""
    rng, sizes = np.random.default_rng(0), (obs, width, width, act)
    layers = [
        (rng.normal(0, a**-0.5, (1, a, b)).astype(np.float32), np.zeros((1, b), np.float32))
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    mean, std = np.zeros(obs, np.float32), np.ones(obs, np.float32)
    return Policy("gaussian", layers, mean, std, np.zeros((1, act), np.float32), {})


def measure(call: Callable[[], object], seconds: float = 2.0) -> tuple[float, float]:
    """(median, 99th percentile) of a call, in microseconds."""
    for _ in range(20):
        call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e3, float(np.percentile(times, 99)) / 1e3


def main() -> None:
    """Print a table."""
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", help="a run directory")
    run = parser.parse_args().run
    policy = Policy.load(Path(run, "policy.safetensors"))[:1] if run else random_policy()
    with tempfile.TemporaryDirectory() as folder:
        source, model = Path(folder, "policy.py"), Path(folder, "policy.onnx")
        source.write_text(numpy_source(policy))
        model.write_bytes(onnx_model(policy))
        act = runpy.run_path(str(source))["act"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(model), options)
    print("| states | Policy.act | policy.py | policy.onnx (onnxruntime) |\n|---|---|---|---|")
    rng = np.random.default_rng(1)
    for n in (1, 256):
        obs = rng.normal(size=(n, len(policy.obs_mean))).astype(np.float32)
        one = obs[0] if n == 1 else obs
        calls = (
            lambda one=one: policy.act(one),
            lambda one=one: act(one),
            lambda obs=obs: session.run(None, {"obs": obs}),
        )
        cells = [f"{median:.0f} ({high:.0f})" for median, high in map(measure, calls)]
        print(f"| {n} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
