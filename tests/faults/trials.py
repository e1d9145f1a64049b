"""What the parts of the fault suite share: numbered trials, runs of seconds, what may happen."""

import json
import re
import zlib

import numpy as np
import pointmass
import pytest
import runs

from stratdiff.policy import Policy

OPTIONS = {
    "env": pointmass.ENV,
    "batch-size": 16,
    "offline-steps": 40,
    "online-steps": 80,
    "online-warmup": 20,
    "log-interval": 20,
    "offline-eval-interval": 40,
    "eval-interval": 40,
    "eval-episodes": 2,
    "checkpoint-seconds": 0,
    "iql.actor-hidden": 8,
    "iql.critic-hidden": 8,
}
GUIDED = {
    "score": "guided",
    "behaviour-steps": 40,
    "energy-steps": 40,
    "behaviour.widths": (16, 8),
    "behaviour.support-actions": 4,
    "behaviour.batch-size": 16,
    "behaviour.solver-steps": 4,
    "energy.hidden": 8,
    "energy.batch-size": 16,
}
KINDS = {"none": {"score": "none"}, "guided": GUIDED}


def command(data, out, kind="none", **changes):
    """`train` on the command line."""
    options = OPTIONS | KINDS[kind] | changes | {"dataset": data, "out": out}
    found = ["train"]
    for name, value in options.items():
        found += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return found


def spec(data, kinds=("none", "guided")):
    """An experiment of these variants, as TOML."""
    lines = ['preset = "demo"', "seeds = [0]", "[options]", *_toml(OPTIONS), "[tasks.point]"]
    lines += [f"dataset = {json.dumps(str(data))}"]
    for kind in kinds:
        lines += [f"[variants.{kind}]", *_toml(KINDS[kind])]
    return "\n".join(lines) + "\n"


def _toml(options):
    lists = {"actor-hidden", "critic-hidden", "hidden"}
    for name, value in options.items():
        key = name.replace("-", "_")
        if isinstance(value, tuple) or name.rpartition(".")[2] in lists:
            value = [value] if isinstance(value, int) else list(value)
        yield f"{key} = {json.dumps(value)}"


def trials(number, core=1):
    """Numbered trials; all but the first `core` are left to `make test-faults`."""
    long = (pytest.mark.slow, pytest.mark.faults)
    return [pytest.param(i, marks=() if i < core else long) for i in range(number)]


def cases(table, core=()):
    """Named trials, of which those named in `core` run in `make test` too."""
    long = (pytest.mark.slow, pytest.mark.faults)
    return [pytest.param(*_tuple(x), id=n, marks=() if n in core else long) for n, x in table]


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def random(part, trial):
    """The random numbers of a trial: its name and number alone decide them."""
    return np.random.default_rng([zlib.crc32(part.encode()), trial])


def clean(outcome):
    """It ended by itself, and without a traceback."""
    assert not outcome.late, f"it hangs\n{outcome.text}"
    assert "Traceback (most recent call last)" not in outcome.text, outcome.text
    return outcome


def refused(outcome, codes=(1, 2)):
    """It ended with one sentence, and with one of the exit codes."""
    clean(outcome)
    assert outcome.code in codes, f"exit code {outcome.code}, expected {codes}\n{outcome.text}"
    said = re.findall(r"^error: .*", outcome.text, re.MULTILINE)
    assert len(said) == 1, f"expected one sentence\n{outcome.text}"
    assert len(said[0]) < 3000, f"a sentence of {len(said[0])} characters"
    return said[0]


def well(outcome):
    """It ended well."""
    clean(outcome)
    assert outcome.code == 0, f"exit code {outcome.code}\n{outcome.text}"
    return outcome


def result(directory):
    """What must be the same however often a run was cut off."""
    policy = Policy.load(directory / "policy.safetensors")
    arrays = [policy.obs_mean, policy.obs_std, *(x for layer in policy.layers for x in layer)]
    return {
        "parameters": runs.summary(directory)["parameters_sha256"],
        "log points": runs.log_points(directory),
        "policy": [zlib.crc32(np.ascontiguousarray(array)) for array in arrays],
        "policy's step": policy.metadata["step"],
    }


def same(found, expected):
    """Compare two results; of the log points the first one that differs says most."""
    a, b = found["log points"], expected["log points"]
    assert len(a) == len(b), f"{len(a)} log points, expected {len(b)}"
    for one, other in zip(a, b, strict=True):
        assert one == other
    assert found == expected


def names(directory):
    """The files of a run or of a comparison; locks and what is inside a checkpoint left out."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return {
        re.sub(r"checkpoints/\d+/.*", "checkpoints/N", name)
        for name in found
        if not name.endswith(".lock")
    }
