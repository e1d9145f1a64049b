"""`stratdiff export`."""

import dataclasses
from pathlib import Path

import tyro

from stratdiff import hub
from stratdiff.cli.parsing import parse
from stratdiff.deploy import numpy_source, onnx_model, write
from stratdiff.errors import UserError
from stratdiff.policy import Policy


@dataclasses.dataclass(frozen=True)
class _Export:
    """Write a run's policy for other programs."""

    source: tyro.conf.Positional[str] = tyro.MISSING
    """The run directory, one of its policy files, or hf://owner/repo on the Hugging Face hub."""
    numpy: str = ""
    """Write a Python file that needs NumPy and nothing else, with a function act(obs)."""
    onnx: str = ""
    """Write an ONNX model from `obs` (n, S) to `action` (n, A)."""
    seed: int | None = None
    """Which seed's policy; None: the first."""


def main(args: list[str]) -> int:
    """Export a policy."""
    parsed = parse(_Export, args, "export")
    wanted = [
        (Path(path), form)
        for path, form in ((parsed.numpy, numpy_source), (parsed.onnx, onnx_model))
        if path
    ]
    if not wanted:
        raise UserError("export needs --numpy FILE.py, --onnx FILE.onnx, or both.")
    source = hub.local(parsed.source, (hub.POLICY,))
    file = source / "policy.safetensors" if source.is_dir() else source
    policies = Policy.load(file)
    seeds = policies.metadata.get("seeds")
    if not isinstance(seeds, list) or len(seeds) != len(policies):
        seeds = list(range(len(policies)))  # snapshots, or another program's file
    seed = seeds[0] if parsed.seed is None else parsed.seed
    if seed not in seeds:
        raise UserError(
            f"policy file {str(file)!r} has no policy of seed {seed}; it holds those of "
            f"{', '.join(map(str, seeds))}."
        )
    index = seeds.index(seed)
    policy = policies[index : index + 1]
    policy.metadata = policies.metadata | {"seed": seed}
    for path, form in wanted:
        write(policy, path, form)
        print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")
    return 0
