"""Eight CPU devices for every test, and a compilation cache that outlives one."""

import logging
import os
import sys
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
ROOT = Path(__file__).parent.parent
CACHE = Path(os.environ.get("SPECIALIZATION_TEST_CACHE", "/tmp/specialization-test-cache"))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


@pytest.fixture(autouse=True, scope="module")
def _forgotten():
  """Each program that was compiled has some of the 65,530 maps that Linux gives a process."""
  yield
  jax.clear_caches()


@pytest.fixture
def same_process(monkeypatch):
  """The entry point starts no other process, and leaves things as they were."""
  monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # console replaces it
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]  # and their levels
  levels = [logger.level for logger in loggers]
  yield
  for logger, level in zip(loggers, levels, strict=True):
    logger.setLevel(level)


@pytest.fixture
def console(same_process, monkeypatch, capsys):
  """Returns a function from a command line to its exit status and the last line on stderr."""
  from specialization import main  # later than the hook that checks types

  def run(*arguments):
    monkeypatch.setattr(sys, "argv", ["specialization", *map(str, arguments)])
    status = 0
    try:
      main.console()
    except SystemExit as end:
      status = end.code
    error = capsys.readouterr().err
    assert "Traceback" not in error or "--debug" in arguments
    return status, (error.splitlines() or [""])[-1]

  return run
