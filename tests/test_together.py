"""An error that one of several processes has alone ends all of them, in seconds."""

import os
import subprocess
import sys
import time

import pytest

import several

RUN = """
from specialization import processes
processes.start("localhost:{port}", 2, {index}, 60)
def make():
  if processes.is_writer():
    raise RuntimeError("no luck")
  return 1
{how}
"""
FIRST = """
with processes.writer_first("a folder"):
  make()
"""


@pytest.mark.parametrize("how", ["processes.of_writer(make)", FIRST], ids=["of_writer", "first"])
def test_an_error_of_the_writer_alone(how):
  port, began = several.free_port(), time.monotonic()
  running = [
    subprocess.Popen(
      [sys.executable, "-c", RUN.format(port=port, index=index, how=how)],
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      cwd=os.path.dirname(os.path.dirname(__file__)),
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    said = [process.communicate(timeout=50)[1] for process in running]
  finally:
    for process in running:
      process.kill()
  assert all(process.returncode for process in running)
  assert "Process 0 stops: no luck" in said[0]
  assert time.monotonic() - began < 50
