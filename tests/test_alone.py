"""A run that is told of other processes, of which there are none."""

import os
import signal
import subprocess
import sys

import pytest

import several

# As a TPU VM of one host answers JAX when it is asked who is there.
HOST = """
import os
from jax._src.clusters import cloud_tpu_cluster as cloud
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
said = {"agent-worker-number": "0", "worker-network-endpoints": "127.0.0.1", "tpu-env": "A: 'b'"}
cloud.running_in_cloud_tpu_vm = True
cloud.get_metadata = lambda key: (said[key], 200)
"""
RUN = """
import os, signal, time
from specialization import processes
processes.start({place}, 60)
assert not processes.are_several() and processes.is_writer()
if {is_training}:
  with processes.terminations() as came:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    assert came()
else:
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(10)
"""


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("is_auto", [False, True])
def test_sigterm_is_not_lost(is_auto, is_training):
  place = '"auto", 0, 0' if is_auto else f'"localhost:{several.free_port()}", 1, 0'
  text = HOST * is_auto + RUN.format(place=place, is_training=is_training)
  ended = subprocess.run(
    [sys.executable, "-c", text],
    env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_PORT": str(several.free_port())},
    cwd=os.path.dirname(os.path.dirname(__file__)),
    capture_output=True,
    text=True,
  )
  assert ended.returncode == (0 if is_training else -signal.SIGTERM), ended.stderr
