"""Every function of the package is shape- and type-checked while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little. Processes that a test starts have the usual flags.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

from jaxtyping import install_import_hook

install_import_hook("stratdiff", "beartype.beartype")
