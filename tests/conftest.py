"""Every function of the package is shape- and type-checked while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("stratdiff", "beartype.beartype")
