"""Several processes of one run, each with some of its devices: they do everything together.

All read one folder, and the first of them alone writes to it. A process that stops takes the others
with it, and the same command goes on from what is complete.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from specialization import artifact, metrics, roll_call
from specialization.errors import Terminated, UserError, first_line

_DAY = 24 * 3600 * 1000  # milliseconds that processes wait for what one of them does alone
_MINUTE = 60 * 1000
_AUTO = "auto"
_barriers, _steps = itertools.count(), itertools.count()


@dataclasses.dataclass
class _Place:
  """This process among all; to ask JAX for it would start a backend."""

  index: int = 0
  count: int = 1


_place = _Place()


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
    # Else SLURM's number of the task on its machine would be taken for the only GPU to use.
    given["cluster_detection_method"] = "deactivate"
  try:
    jax.distributed.initialize(**given, initialization_timeout=timeout)
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f"The processes cannot meet ({first_line(error)}): give --coordinator, --processes and"
      " --process."
    ) from error
  _place.index, _place.count = jax.process_index(), jax.process_count()
  if must_compile_anew():
    jax.config.update("jax_enable_compilation_cache", False)
  if not are_several():  # JAX has taken the signal, and whoever is alone does not ask it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  if not is_writer():
    metrics.hide_progress()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what all would say, one says


def are_several() -> bool:
  return _place.count > 1


def must_compile_anew() -> bool:
  """Whether no program may come from the compilation cache.

  Between CPUs messages are told apart by their order alone, and a program that comes from there has
  lost it: XLA reads a loop's collectives back as unrelated to those around the loop.
  """
  return are_several() and jax.default_backend() == "cpu"


def count() -> int:
  return _place.count


def is_writer() -> bool:
  """Whether this is the process that writes."""
  return _place.index == 0


def wait(what: str, timeout_ms: int = _DAY) -> None:
  """Returns when all processes have come here."""
  if are_several():
    key = f"specialization {next(_barriers)} {what}"
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def writer_first(what: str) -> Iterator[None]:
  """The body is run by the writer, then by all others, who find what it has made."""
  if not is_writer():
    wait(what)
  try:
    yield
  except UserError:  # The others will find the same.
    if is_writer():
      wait(what)
    raise
  except Exception as error:
    end_all(error)
    raise
  if is_writer():
    wait(what)


def of_writer(make: Callable[[], Any]) -> Any:
  """Returns on all processes what the writer makes, which JSON has to be able to say.

  Raises:
    UserError: the writer's.
  """
  if not are_several():
    return make()
  said: dict[str, Any] = {}
  if is_writer():
    try:
      said = {"value": make()}
    except UserError as error:
      said = {"error": str(error)}
    except Exception as error:
      end_all(error)
      raise
  said = _broadcast(said)
  if "error" in said:
    raise UserError(said["error"])
  return said["value"]


def _broadcast(said: Any) -> Any:
  """Returns what the writer says. Lengths are powers of two, since each compiles a program."""
  text = json.dumps(said).encode()
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  padded = np.full(1 << (length - 1).bit_length(), ord(" "), np.uint8)
  if is_writer():
    padded[: len(text)] = np.frombuffer(text, np.uint8)
  return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def agree(on: Any) -> None:
  """Looks whether all processes were started alike.

  Args:
    on: what JSON can say and has to be the same.

  Raises:
    UserError: on all of them, some were not.
  """
  if not are_several():
    return
  own = np.int32(int(artifact.fingerprint(on)[:7], 16))
  of_all = np.asarray(multihost_utils.process_allgather(own)).ravel()
  if others := [str(at) for at in np.flatnonzero(of_all != of_all[0])]:
    raise UserError(
      f"Process {', '.join(others)} was started with another verb, config or folder than process 0:"
      " give all the same command, but for --process."
    )


def whole(array: jax.Array) -> np.ndarray:
  """Returns a global array on the host of every process."""
  if array.is_fully_addressable:
    return np.asarray(array)
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@contextlib.contextmanager
def terminations() -> Iterator[Callable[[], bool]]:
  """Yields what tells, asked after each step, whether SIGTERM came: then save, and stop.

  Where it comes to one process all of them are told, after the same step. Once it came the answer
  stays.
  """
  came = False

  def ask() -> bool:  # JAX has the signal, and wants numbers that only grow.
    nonlocal came
    came = came or multihost.reached_preemption(next(_steps))
    return came

  def note(*_: object) -> None:
    nonlocal came
    came = True

  if are_several():
    yield ask
    return
  before = signal.signal(signal.SIGTERM, note)
  try:
    yield lambda: came
  finally:
    signal.signal(signal.SIGTERM, before)


def end_if_terminated(before: str) -> None:
  """Ends several processes that SIGTERM came to while they did not train; a single one ends itself.

  Args:
    before: what they would do next.

  Raises:
    Terminated: it came.
  """
  if are_several() and multihost.reached_preemption(next(_steps)):
    raise Terminated(f"Terminated before {before}.")


def same_everywhere(error: UserError) -> None:
  """Goes on after an error that all processes have, and ends all if it is one's alone."""
  if are_several():
    try:
      wait("an error", _MINUTE)
    except Exception:
      end_all(error)


def end_all(error: BaseException) -> None:
  """Ends all processes for an error that is one's alone: the others would wait for it for ever."""
  if not are_several():
    return
  why = first_line(error)
  is_ours = "RESOURCE_EXHAUSTED" in why
  if "Gloo" in why or (isinstance(error, jax.errors.JaxRuntimeError) and not is_ours):
    why = (
      f"another one is gone, or does not answer ({why}). Start all again with the same command:"
      " they go on from the last checkpoint."
    )
  traceback.print_exception(error)
  print(f"Process {_place.index} stops: {why}", file=sys.stderr, flush=True)
  os._exit(1)
