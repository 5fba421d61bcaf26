"""Checkpoints: Orbax behind one small class, with sentences for what goes wrong."""

import contextlib
import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from specialization import artifact, processes
from specialization.errors import Damaged, UserError, first_line
from specialization.train.state import TrainState

_SUMS = "sums"  # of the metadata
_ASIDE = "damaged-"
# Of errors that say nothing of the files.
_PASSING = ("PERMISSION_DENIED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


class _Manager(ocp.CheckpointManager):
  """Without Orbax's own questions whether SIGTERM came: the answer counts who asks."""

  def reached_preemption(self, step: int) -> bool:
    return False


class Checkpoints:
  """The checkpoints of one training phase, written in the background.

  Each holds the items `params`, `optimizer` (with the step) and `metadata` (JSON), and appears
  under its final name only when whole. Kept are the newest, where a validation loss is given on
  saving the one with the lowest, and those of some steps. Sums of the state's bits lie beside it,
  by which it is seen if files changed since.
  """

  def __init__(
    self,
    folder: Path,
    *,
    read_only: bool = False,
    keep: Sequence[int] = (),
    last: int = 1,
    every: int = 0,
  ):
    """Removes what a killed run left half written, unless another run may be writing there.

    Args:
      folder: of all of them.
      read_only: another run's, which is not touched.
      keep: steps whose checkpoints stay.
      last: how many of the newest stay, until `finish`.
      every: checkpoints of multiples of so many steps stay; 0: none.
    """
    self._folder = folder.absolute()
    self._keep, self._every = keep, every
    lowest = policies.BestN(
      get_metric_fn=_validation, reverse=True, n=1, keep_checkpoints_without_metrics=False
    )
    kept = [policies.LatestN(last), lowest, policies.CustomSteps(steps=list(keep))]
    if every:
      kept.append(policies.EveryNSteps(every))
    self._manager = _Manager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        best_fn=_validation,
        best_mode="min",
        enable_async_checkpointing=True,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
      ),
      item_handlers={
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "metadata": ocp.JsonCheckpointHandler(),
      },
    )

  def latest(self) -> int | None:
    """Returns the newest complete checkpoint's step."""
    return self._manager.latest_step()

  def has(self, step: int) -> bool:
    """Whether the step has a complete checkpoint."""
    return step in self._manager.all_steps()

  def best(self) -> int | None:
    """Returns the step with the lowest validation loss, the newest if none was given."""
    best = self._manager.best_step()
    return self.latest() if best is None else best

  def save(
    self, step: int, state: TrainState, metadata: dict[str, Any], validation: float | None = None
  ) -> None:
    """Copies the state to host memory and returns; writing goes on in the background.

    Raises:
      UserError: the disk has no room for it, or had none for the one before.
    """
    self._check_room(step, state)
    known = validation is not None and not math.isnan(validation)
    with self._explained(step):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          optimizer=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
          metadata=ocp.args.JsonSave(metadata | {_SUMS: _sums(state) | _digest(metadata)}),
        ),
        metrics={"validation": validation} if known else None,
        force=True,
      )

  def resume(self, like: TrainState) -> tuple[TrainState, dict[str, Any], int] | None:
    """Returns state, metadata and step of the newest checkpoint that is as it was written.

    Damaged ones are put aside, and told. None: there is no checkpoint.

    Raises:
      UserError: it is one of another model or optimizer, or all are damaged.
    """
    while (step := self.latest()) is not None:
      try:
        return *self.restore(step, like), step
      except Damaged as error:
        self._put_aside(step)
        told = f"The checkpoint of step {step} is damaged, and put aside: {error.why}"
        # The others may have read it whole.
        processes.end_all(UserError(f"{told}. Start all again: they take the one before."))
        print(f"{told}.", flush=True)
        self._manager.reload()
    if aside := sorted(path.name for path in self._folder.parent.glob(f"{_ASIDE}*")):
      raise UserError(
        f"All checkpoints in {self._folder.parent} were damaged ({', '.join(aside)}): delete that"
        " folder to begin anew."
      )
    return None

  def _put_aside(self, step: int) -> None:
    names = (f"{_ASIDE}{step}" + f".{n}" * (n > 0) for n in itertools.count())
    free = next(p for name in names if not (p := self._folder.with_name(name)).exists())
    with contextlib.suppress(FileNotFoundError):  # Another process did it.
      (self._folder / str(step)).rename(free)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state on the mesh that `like` names, and the metadata.

    Raises:
      UserError: the checkpoint is one of another model or optimizer.
      Damaged: it is not what was written.
    """
    with self._read(step), self._fitting(step, like.params):
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardRestore(like.params),
          optimizer=ocp.args.StandardRestore({"step": like.step, "opt_state": like.opt_state}),
          metadata=ocp.args.JsonRestore(),
        ),
      )
    optimizer = restored["optimizer"]
    state = TrainState(optimizer["step"], restored["params"], optimizer["opt_state"])
    metadata = restored["metadata"]
    if _SUMS in metadata:  # Checkpoints of earlier versions have none.
      written = metadata.pop(_SUMS)
      self._compare(step, written, _sums(state) | _digest(metadata))
    return state, metadata

  def metadata(self, step: int) -> dict[str, Any]:
    """Returns what was saved beside the state."""
    args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    found: dict[str, Any] = self._manager.restore(step, args=args)["metadata"]
    return found

  def restore_params(self, step: int, like: Any) -> Any:
    """Returns the parameters alone, on the mesh that `like` names.

    Raises:
      UserError: the checkpoint is one of another model.
      Damaged: it is not what was written.
    """
    args = ocp.args.Composite(
      params=ocp.args.StandardRestore(like), metadata=ocp.args.JsonRestore()
    )
    with self._read(step), self._fitting(step, like):
      restored = self._manager.restore(step, args=args)
    if _SUMS in restored["metadata"]:
      written = restored["metadata"][_SUMS]
      self._compare(step, written, {"params": _sum_bits(restored["params"])})
    return restored["params"]

  def leaf(self, step: int, path: Sequence[str]) -> np.ndarray:
    """Returns one parameter in this host's memory, and reads no other one.

    Raises:
      Damaged: it is not what was written.
    """
    wanted: Any = jax.ShapeDtypeStruct((), jnp.float32)
    args: Any = ocp.RestoreArgs(restore_type=np.ndarray)
    for key in reversed(path):
      wanted, args = {key: wanted}, {key: args}
    with self._read(step), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      found: Any = reader.restore(
        self._folder / str(step) / "params",
        args=ocp.args.PyTreeRestore(wanted, restore_args=args, partial_restore=True),
      )
    name, metadata = "/".join(path), self.metadata(step)
    (array,) = jax.tree.leaves(found)
    if _SUMS in metadata:
      written = metadata[_SUMS]
      self._compare(step, written, {"params": _sum_bits({name: array})})
    return np.asarray(array)

  def wait(self) -> None:
    """Returns when all is on disk.

    Raises:
      UserError: something could not be written.
    """
    with self._explained(self.latest() or 0):
      self._manager.wait_until_finished()

  def close(self) -> None:
    self.wait()
    self._manager.close()

  def finish(self) -> None:
    """Closes, and removes what was kept only in case that a later one is damaged."""
    self.wait()
    for step in set(self._manager.all_steps()) - {self.latest(), self.best(), *self._keep}:
      if not self._every or step % self._every:
        self._manager.delete(step)
    self._manager.close()

  @contextlib.contextmanager
  def _read(self, step: int) -> Iterator[None]:
    try:
      yield
    except FileNotFoundError as error:
      raise self._damaged(step, first_line(error)) from error
    except Exception as error:
      # What TensorStore raises of files that it cannot decode; of what may pass it says so.
      is_decoding = isinstance(error, ValueError) or type(error) is Exception
      if not is_decoding or any(sign in str(error) for sign in _PASSING):
        raise
      raise self._damaged(step, first_line(error)) from error

  def _compare(self, step: int, written: Any, found: Any) -> None:
    for item, sums in found.items():
      if (at := next((n for n in sums if sums[n] != written[item].get(n)), None)) is not None:
        raise self._damaged(step, f"{at} of {item} is another")

  def _damaged(self, step: int, why: str) -> Damaged:
    sentence = (
      f"The checkpoint of step {step} in {self._folder} is not what was written ({why}): delete"
      f" {self._folder.parent} to make it anew."
    )
    return Damaged(sentence, why)

  def _check_room(self, step: int, state: TrainState) -> None:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    free = processes.of_writer(lambda: shutil.disk_usage(self._folder).free)
    if free < size:
      self.wait()  # for the checkpoint before, from which it is to go on
      raise UserError(
        f"The disk of {self._folder} has {free / 1e6:.0f} MB free, but the checkpoint of step"
        f" {step} takes up to {size / 1e6:.0f} MB: free some room and run again, it goes on from"
        f" step {self.latest() or 0}."
      )

  @contextlib.contextmanager
  def _explained(self, step: int) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:
      text = str(error)
      if any(sign in text for sign in ("No space left", "File too large", "quota", "ENOSPC")):
        raise UserError(
          f"The disk of {self._folder} was full while a checkpoint was written (step {step}):"
          " free some room and run again, it goes on from the last complete one."
        ) from error
      raise

  @contextlib.contextmanager
  def _fitting(self, step: int, like: Any) -> Iterator[None]:
    """Tells of a checkpoint that is not there, or not one of these parameters and optimizer."""
    if step not in self._manager.all_steps():
      raise UserError(
        f"{self._folder} has no complete checkpoint: delete {self._folder.parent} to make it anew."
      )
    described = self._manager.item_metadata(step)["params"]
    if described is None:
      raise self._damaged(step, "it does not say what is in it")
    there = _shapes(described.tree)
    wanted = _shapes(like)
    name = next((n for n in sorted(there | wanted) if there.get(n) != wanted.get(n)), None)
    other = f"{name} is {there.get(name)}, not {wanted.get(name)}" if name else "other optimizer"
    sentence = (
      f"The checkpoint of step {step} in {self._folder} is not one of this model and optimizer"
      f" ({other}): begin from another one, or choose its model and optimizer."
    )
    if name:
      raise UserError(sentence)
    try:
      yield
    except ValueError as error:
      if "do not match" in str(error):
        raise UserError(sentence) from error
      raise


def _sums(state: TrainState) -> dict[str, dict[str, int]]:
  optimizer = {"step": state.step, "opt_state": state.opt_state}
  return {"params": _sum_bits(state.params), "optimizer": _sum_bits(optimizer)}


def _digest(metadata: dict[str, Any]) -> dict[str, dict[str, str]]:
  return {"metadata": {"digest": artifact.fingerprint(metadata)}}


def _sum_bits(tree: Any) -> dict[str, int]:
  """Returns for each array the sum of its numbers' bits, whatever mesh it lies on."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
  sums = jax.device_get(_sums_of([leaf for _, leaf in leaves]))
  return {name: int(total) for name, total in zip(names, sums, strict=True)}


@jax.jit
def _sums_of(leaves: list[Any]) -> list[Any]:
  def bits(leaf: Any) -> Any:
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)

  return [jnp.sum(bits(leaf), dtype=jnp.uint32) for leaf in leaves]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
  }


def _validation(metrics: dict[str, float]) -> float:
  return metrics["validation"]
