"""Several processes on CPUs compile anew: the cache loses the order of their messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import several

ROOT = Path(__file__).parent.parent
RUN = """
import jax
from specialization import processes
processes.start("localhost:{port}" if {count} > 1 else "", {count}, {index}, 60)
jax.jit(lambda x: 2 * x)(1.0)
"""


@pytest.mark.parametrize(("count", "is_used"), [(1, True), (2, False)])
def test_the_compilation_cache_is_for_a_single_process_on_cpus(tmp_path, count, is_used):
  port = several.free_port()
  variables = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  running = [
    subprocess.Popen(
      [sys.executable, "-c", RUN.format(port=port, count=count, index=index)],
      env=os.environ | variables,
      cwd=ROOT,
    )
    for index in range(count)
  ]
  try:
    assert [process.wait(timeout=100) for process in running] == [0] * count
  finally:
    for process in running:
      process.kill()
      process.wait()
  assert any(tmp_path.iterdir()) == is_used
