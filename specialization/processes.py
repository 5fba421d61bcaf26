"""Several processes of one run, each with some of its devices: they do everything together.

All read one folder, and the first of them alone writes to it. A process that stops takes the others
with it, and the same command goes on from what is complete.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from specialization import roll_call
from specialization.errors import UserError

_DAY = 24 * 3600 * 1000  # milliseconds that processes wait for what one of them does alone
_AUTO = "auto"
_counts, _steps = itertools.count(), itertools.count()


def start(coordinator: str, count: int, index: int, timeout: int) -> None:
  """Joins the processes of a run, before any device is used.

  Args:
    coordinator: address HOST:PORT of the first process; "auto": as SLURM, Kubernetes or a TPU pod
      say, count and index too; "": this is the only process.
    count: of processes.
    index: of this one, from 0.
    timeout: seconds to wait for the others.

  Raises:
    UserError: one did not come, or none is there.
  """
  if not coordinator:
    return
  given: dict[str, Any] = {}
  if coordinator != _AUTO:
    if count < 1 or not 0 <= index < count:
      raise UserError(
        f"--process={index} of --processes={count} is none: give each process its number, from 0,"
        " and all of them their count."
      )
    roll_call.call(coordinator, count, index, timeout)
    given = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
  try:
    jax.distributed.initialize(**given, initialization_timeout=timeout)
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0].rstrip(".")
    raise UserError(
      f"The processes cannot meet ({reason}): give --coordinator, --processes and --process."
    ) from error
  if not is_writer():
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what all would say, one says


def is_writer() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def wait(what: str) -> None:
  """Returns when all processes have come here."""
  if jax.process_count() > 1:
    key = f"specialization {next(_counts)} {what}"
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=_DAY)


@contextlib.contextmanager
def writer_first(what: str) -> Iterator[None]:
  """The body is run by the writer, then by all others, who find what it has made."""
  if not is_writer():
    wait(what)
  try:
    yield
  finally:
    if is_writer():
      wait(what)


@contextlib.contextmanager
def terminations() -> Iterator[Callable[[], bool]]:
  """Yields what tells, asked after each step, whether SIGTERM came: then save, and stop.

  Where it comes to one process all of them are told, after the same step.
  """
  if jax.process_count() > 1:  # JAX has the signal, and wants numbers that only grow.
    yield lambda: multihost.reached_preemption(next(_steps))
    return
  came = False

  def note(*_: object) -> None:
    nonlocal came
    came = True

  before = signal.signal(signal.SIGTERM, note)
  try:
    yield lambda: came
  finally:
    signal.signal(signal.SIGTERM, before)


def agree(value: Any) -> Any:
  """Returns what the writer gives, on all processes: anything that JSON can say."""
  if jax.process_count() == 1:
    return value
  said = np.frombuffer(json.dumps(value if is_writer() else None).encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
  padded = np.zeros(length, np.uint8)
  if is_writer():
    padded[:] = said
  return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def whole(array: jax.Array) -> np.ndarray:
  """Returns a global array on the host of every process."""
  if array.is_fully_addressable:
    return np.asarray(array)
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def end_all(error: BaseException) -> None:
  """Ends all processes for an error that may be one's alone: they would wait for it for ever."""
  if jax.process_count() > 1:
    print(f"Process {jax.process_index()} stops: {error}", file=sys.stderr, flush=True)
    os._exit(1)
