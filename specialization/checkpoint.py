"""Checkpoints: Orbax behind one small class, with sentences for what goes wrong."""

import contextlib
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from specialization.errors import UserError
from specialization.train.state import TrainState


class Checkpoints:
  """The checkpoints of one training phase, written in the background.

  Each holds the items `params`, `optimizer` (with the step) and `metadata` (JSON), and appears
  under its final name only when whole. Kept are the newest, where a validation loss is given on
  saving the one with the lowest, and those of some steps.
  """

  def __init__(self, folder: Path, *, read_only: bool = False, keep: Sequence[int] = ()):
    """Removes what a killed run left half written, unless another run may be writing there.

    Args:
      folder: of all of them.
      read_only: another run's, which is not touched.
      keep: steps whose checkpoints stay.
    """
    self._folder = folder.absolute()
    lowest = policies.BestN(
      get_metric_fn=_validation, reverse=True, n=1, keep_checkpoints_without_metrics=False
    )
    kept = [policies.LatestN(1), lowest, policies.CustomSteps(steps=list(keep))]
    self._manager = ocp.CheckpointManager(
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
          metadata=ocp.args.JsonSave(metadata),
        ),
        metrics={"validation": validation} if known else None,
        force=True,
      )

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state on the mesh that `like` names, and the metadata.

    Raises:
      UserError: the checkpoint is one of another model or optimizer.
    """
    with self._fitting(step, like.params):
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
    return state, restored["metadata"]

  def metadata(self, step: int) -> dict[str, Any]:
    """Returns what was saved beside the state."""
    args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    found: dict[str, Any] = self._manager.restore(step, args=args)["metadata"]
    return found

  def restore_params(self, step: int, like: Any) -> Any:
    """Returns the parameters alone, on the mesh that `like` names.

    Raises:
      UserError: the checkpoint is one of another model.
    """
    args = ocp.args.Composite(params=ocp.args.StandardRestore(like))
    with self._fitting(step, like):
      return self._manager.restore(step, args=args)["params"]

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

  def _check_room(self, step: int, state: TrainState) -> None:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(self._folder).free
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
    there = _shapes(self._manager.item_metadata(step)["params"].tree)
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


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
  }


def _validation(metrics: dict[str, float]) -> float:
  return metrics["validation"]
