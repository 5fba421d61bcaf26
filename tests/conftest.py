"""Eight CPU devices for every test, and a compilation cache that outlives one."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
CACHE = Path(os.environ.get("SPECIALIZATION_TEST_CACHE", "/tmp/specialization-test-cache"))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


@pytest.fixture(autouse=True, scope="module")
def _forgotten():
  """Each program that was compiled has some of the 65,530 maps that Linux gives a process."""
  yield
  jax.clear_caches()
