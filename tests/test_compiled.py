"""The cache of compiled programs, in processes of their own: JAX's settings hold for a process."""

import json
import os
import subprocess
import sys

import pytest

from stratdiff import compiled

TESTS = os.path.dirname(__file__)

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp
from stratdiff import compiled
compiled.MIN_SECONDS = 0.0
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compiled.keep_compiled()
x = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(json.dumps({
    "folder": jax.config.jax_compilation_cache_dir,
    "sum": float(x.sum()),
    "most": jax.config.jax_compilation_cache_max_size,
    "hits": hits.count("/jax/compilation_cache/cache_hits"),
}))
"""


def run(cache, before="", **env):
    """What a process with this cache folder tells; `before`: what it does first."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    known |= {"JAX_PLATFORMS": "cpu", "STRATDIFF_CACHE": str(cache)} | env
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        env=known,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_a_later_process_finds_what_an_earlier_one_compiled(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    assert first["hits"] == 0 < second["hits"]
    assert first["sum"] == second["sum"]
    # The bits depend on the number of threads, so another number has programs of its own.
    other = run(tmp_path, NPROC="1" if os.environ.get("NPROC") != "1" else "2")
    assert other["hits"] == 0
    assert other["folder"] != first["folder"]


def test_what_the_user_chose_stays(tmp_path):
    own = str(tmp_path / "own")
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=own)["folder"] == own
    assert run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="0")["folder"] is None
    assert [path.name for path in tmp_path.iterdir()] in ([], ["own"])


@pytest.mark.parametrize(
    "damage",
    ["cut off", *(pytest.param(d, marks=pytest.mark.slow) for d in ("other bytes", "no folder"))],
)
def test_a_damaged_cache_costs_time_only(tmp_path, damage):
    before = run(tmp_path / "cache")
    if damage == "no folder":
        (tmp_path / "file").touch()
        found = run(tmp_path / "file")
        assert found["folder"] is None
    else:
        programs = [*(tmp_path / "cache").rglob("*-cache")]
        assert programs
        for path in programs:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] if damage == "cut off" else b"x" * len(data))
        found = run(tmp_path / "cache")
        assert found["hits"] == 0
    assert found["sum"] == before["sum"]


def test_a_folder_of_somebody_else_is_not_trusted(tmp_path):
    run(tmp_path)
    other = run(tmp_path, "import os; os.getuid = lambda: 12345")
    assert other["folder"] is None and other["hits"] == 0


def test_it_is_bounded_and_for_its_owner_alone(tmp_path):
    found = run(tmp_path)
    assert found["most"] == compiled.MAX_BYTES
    assert os.stat(found["folder"]).st_mode & 0o077 == 0


TRAIN = """
import sys
import pointmass, runs, stratdiff
from stratdiff import registry
from stratdiff.config import make_config
registry.trust("*")
config = make_config(**runs.TINY | {"dataset": sys.argv[1]})
stratdiff.train(config, sys.argv[2], reporter=runs.QUIET)
"""


@pytest.mark.slow
def test_a_run_has_the_same_bits_with_and_without_it(tmp_path, data_file):
    known = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    known |= {"JAX_PLATFORMS": "cpu", "STRATDIFF_CACHE": str(tmp_path / "cache")}
    known["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])
    policies = []
    for name, env in (
        ("off", {"JAX_ENABLE_COMPILATION_CACHE": "0"}), ("first", {}), ("second", {}),
    ):  # fmt: skip
        out = tmp_path / name
        command = [sys.executable, "-c", TRAIN, str(data_file), str(out)]
        subprocess.run(command, env=known | env, check=True)
        policies.append((out / "policy.safetensors").read_bytes())
    assert policies[0] == policies[1] == policies[2]
    assert [*(tmp_path / "cache" / "compiled").rglob("*-cache")]
