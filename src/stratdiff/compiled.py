"""Compiled programs that outlive their process: JAX's own cache, in the user's cache folder."""

import hashlib
import os
import warnings
from typing import Any

import jax

from stratdiff import cpu, process
from stratdiff.reading import cache_dir

# The least recently used programs make way. A run has about 1 MB of them.
MAX_BYTES = 256_000_000
# Programs that compile faster are not kept.
MIN_SECONDS = 0.1


def keep_compiled() -> None:
    """Let JAX keep compiled programs in `cache_dir()/compiled`, so that the next run need not wait.

    JAX decides which program is the same. What its key leaves out names the folder: the processor,
    and how many threads it may use, on which the bits depend. Nothing is done where the program or
    the user has chosen a folder of their own (`JAX_COMPILATION_CACHE_DIR`), has turned the cache
    off (`JAX_ENABLE_COMPILATION_CACHE=0`), or where the folder cannot be written.
    """
    settings: Any = jax.config  # whose attributes type checkers do not know
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return
    folder = (cache_dir() / "compiled" / _machine()).absolute()
    try:
        # Whoever may write here may run code as this user.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    others = hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()
    if others or not os.access(folder, os.W_OK):
        return
    # A full disk or a damaged program costs the time to compile, nothing else.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def _machine() -> str:
    """What compiled programs depend on beside what JAX knows: a name of 16 hexadecimal digits."""
    threads = os.environ.get("NPROC") or process.cores()
    return hashlib.sha256(f"{cpu.processor()}\n{threads}".encode()).hexdigest()[:16]
