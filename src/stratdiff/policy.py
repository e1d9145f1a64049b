"""Trained policies outside of training: NumPy only, saved as safetensors.

Evaluation, data generation and users' robots all act through this one class, so a score can be
made again from the file alone.
"""

import functools
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save

from stratdiff import hub
from stratdiff.errors import UserError
from stratdiff.files import checksum, replacing
from stratdiff.reading import parse_json, read_safetensors

Kind = Literal["squashed", "gaussian"]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Policy:
    """P policies of one shape (one a seed, or one a snapshot), acting on unnormalised states.

    `layers` are (weight [P, in, out], bias [P, out]) with ReLU between. `squashed`: tanh of a
    Gaussian, the last layer gives mean and log-std; `gaussian`: mean tanh(net), `log_std` [P, A].
    """

    def __init__(
        self,
        kind: Kind,
        layers: list[tuple[Floats, Floats]],
        obs_mean: Float[np.ndarray, " obs"],
        obs_std: Float[np.ndarray, " obs"],
        log_std: Floats | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.layers = layers
        self.obs_mean, self.obs_std = obs_mean, obs_std
        self.log_std = log_std
        self.metadata = metadata or {}

    def __len__(self) -> int:
        return len(self.layers[0][0])

    def __repr__(self) -> str:
        widths = [len(self.obs_mean), *(bias.shape[1] for _, bias in self.layers)]
        where = self.metadata.get("environment") or "an unnamed environment"
        return f"Policy({len(self)} x {self.kind}, widths {widths}, for {where})"

    def __getitem__(self, index: slice) -> "Policy":
        """The policies of a slice."""
        return Policy(
            self.kind,
            [(w[index], b[index]) for w, b in self.layers],
            self.obs_mean,
            self.obs_std,
            None if self.log_std is None else self.log_std[index],
            self.metadata,
        )

    @functools.cached_property
    def bounds(self) -> tuple[Float[np.ndarray, " act"], Float[np.ndarray, " act"]]:
        """Lowest and highest action of the environment; -1 and 1 where it is not known.

        Raises:
            ValueError: those of the metadata cannot be.
        """
        size = self.layers[-1][1].shape[1] // (2 if self.kind == "squashed" else 1)
        low, high = (
            np.array(self.metadata.get(key, [default] * size), np.float32)
            for key, default in (("action_low", -1.0), ("action_high", 1.0))
        )
        if low.shape != (size,) or high.shape != (size,) or not (low < high).all():
            raise ValueError(f"action_low {low.tolist()} and action_high {high.tolist()}")
        return low, high

    def act(self, obs: Float[np.ndarray, "*n obs"]) -> Float[np.ndarray, "*n act"]:
        """The first policy's deterministic actions, within the environment's own bounds."""
        states = np.asarray(obs).reshape(1, -1, len(self.obs_mean))
        unit = self[:1].mode(states)[0]
        low, high = self.bounds
        actions = np.clip(low + (high - low) * (unit + 1) / 2, low, high)
        return actions.reshape(*np.shape(obs)[:-1], -1).astype(np.float32)

    def __call__(self, obs: Float[np.ndarray, " obs"]) -> Float[np.ndarray, " act"]:
        """The deterministic action of the first policy in one state, in [-1, 1]; see `act`."""
        return self[:1].mode(np.asarray(obs)[None, None])[0, 0]

    def mode(self, obs: Float[np.ndarray, "p n obs"]) -> Float[np.ndarray, "p n act"]:
        """Deterministic actions of n states per policy."""
        return np.tanh(self._mean_and_log_std(obs)[0])

    def sample(
        self, obs: Float[np.ndarray, "p n obs"], noise: Float[np.ndarray, "p n act"]
    ) -> Float[np.ndarray, "p n act"]:
        """Stochastic actions, from standard normal `noise`."""
        mean, log_std = self._mean_and_log_std(obs)
        if self.kind == "squashed":
            return np.tanh(mean + np.exp(log_std) * noise)
        return np.clip(np.tanh(mean) + np.exp(log_std) * noise, -1.0, 1.0)

    def _mean_and_log_std(self, obs: Floats) -> tuple[Floats, Floats]:
        x = ((obs - self.obs_mean) / self.obs_std).astype(np.float32)
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight + bias[:, None]
            if i < len(self.layers) - 1:
                x = np.maximum(x, 0)
        if self.kind == "squashed":
            mean, log_std = np.split(x, 2, axis=-1)
            return mean, np.clip(log_std, -20, 2)
        assert self.log_std is not None
        return x, np.clip(self.log_std, -5, 2)[:, None]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: beside, then renamed.

        Raises:
            RunStopped: it cannot be written.
        """
        path = Path(path)
        tensors = {"obs_mean": self.obs_mean, "obs_std": self.obs_std}
        for i, (weight, bias) in enumerate(self.layers):
            tensors |= {f"layer{i}.weight": weight, f"layer{i}.bias": bias}
        if self.log_std is not None:
            tensors["log_std"] = self.log_std
        metadata = {"kind": self.kind, "about": json.dumps(self.metadata)}
        metadata["crc32"] = str(_sum(tensors, metadata))
        data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)
        with replacing(path) as partial:
            partial.write_bytes(_in_order(data))

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Read a file written by `save`; `hf://owner/repo` is that of a run on the hub.

        Raises:
            UserError: the file is missing or holds no policy.
            RunStopped: the hub cannot be reached, and it was not fetched before.
        """
        if isinstance(path, str) and hub.is_name(path):
            found = hub.local(path, (hub.POLICY,))
            path = found / hub.POLICY if found.is_dir() else found
        stored, metadata = read_safetensors(path, "policy file")
        try:
            tensors = {name: tensor.astype(np.float32) for name, tensor in stored.items()}
            sum_ = metadata.pop("crc32", None)  # earlier versions have none
            if sum_ is not None and sum_ != str(_sum(stored, metadata)):
                raise ValueError("its checksum is another")
            kind: Any = metadata["kind"]
            about = parse_json(metadata["about"])
            if not isinstance(about, dict):
                raise ValueError("about is no table")
            if kind not in get_args(Kind):
                raise KeyError(f"kind {kind!r}")
            n = len({name.split(".")[0] for name in tensors if name.startswith("layer")})
            log_std = tensors["log_std"] if kind == "gaussian" else None
            layers = [(tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"]) for i in range(n)]
            mean, std = tensors["obs_mean"], tensors["obs_std"]
            _check_shapes(layers, mean, std, log_std)
            policy = cls(kind, layers, mean, std, log_std, about)
            _ = policy.bounds
        except (LookupError, ValueError, TypeError) as error:
            raise UserError(
                f"policy file {str(path)!r} is not a policy of this package: its tensors or its "
                f"metadata (kind, about) are wrong ({error})."
            ) from error
        return policy


def policy_file(directory: Path, step: int) -> Path:
    """Where a run keeps its policies as they are after so many online steps."""
    return directory / "policies" / f"step_{step:09d}.safetensors"


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted; the library's order changes by itself."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # what follows stays aligned
    return len(text).to_bytes(8, "little") + text + data[start:]


def _sum(tensors: dict[str, Floats], metadata: dict[str, str]) -> int:
    """A checksum of everything in the file."""
    parts = {name: [str(x.dtype), *x.shape, checksum(x)] for name, x in tensors.items()}
    return checksum(json.dumps([parts, metadata], sort_keys=True).encode())


def _check_shapes(
    layers: list[tuple[Floats, Floats]], mean: Floats, std: Floats, log_std: Floats | None
) -> None:
    """ValueError where the tensors cannot act together."""
    if not layers:
        raise ValueError("no layer")
    policies, width = len(layers[0][0]), len(mean)
    for i, (weight, bias) in enumerate(layers):
        expected = (policies, width, *bias.shape[1:])
        if weight.shape != expected or bias.shape != (policies, *weight.shape[2:]):
            raise ValueError(f"layer{i}: weight {weight.shape}, bias {bias.shape}")
        width = weight.shape[2]
    if mean.shape != std.shape or not (std > 0).all():
        raise ValueError("obs_std must be positive and fit obs_mean")
    if log_std is not None and log_std.shape != (policies, width):
        raise ValueError(f"log_std {log_std.shape}")
