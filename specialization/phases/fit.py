"""One training run in a folder: where it begins, that it goes on, what it spent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from specialization import artifact, budgets, metrics
from specialization.checkpoint import Checkpoints
from specialization.config import Config, TrainConfig, to_dict
from specialization.data import pipeline
from specialization.errors import UserError
from specialization.models import Params
from specialization.phases.build import Trainer
from specialization.train import loop
from specialization.train import state as train_state


def fit(
  name: str,
  folder: Path,
  trainer: Trainer,
  schedule: loop.Schedule,
  batches: pipeline.Pipeline,
  config: Config,
  train: TrainConfig,
  *,
  params: Params | None = None,
  validate: Callable[[Params], float] | None = None,
) -> tuple[Params, loop.Progress]:
  """Trains in a folder from the furthest point that is there; returns the best parameters.

  The state begins as, in this order: the folder's own checkpoint, another run's full state, given
  parameters or another run's, a fresh draw.
  """
  checkpoints, progress = Checkpoints(folder / "checkpoints"), loop.Progress()
  own, origin = checkpoints.latest(), "scratch"
  if own is not None:
    state, metadata = checkpoints.restore(own, trainer.like)
    progress = loop.Progress.of(metadata["progress"])
    origin = f"its own checkpoint of step {own}"
  elif train.init_state:
    other = _other(train.init_state)
    state, metadata = other.restore(other.latest() or 0, trainer.like)
    progress = loop.Progress(step=metadata["progress"]["step"])
    origin = f"the full state of {train.init_state} at step {progress.step}"
  else:
    if params is not None:
      origin = "materialized parameters"
    elif train.init_params:
      other = _other(train.init_params)
      params = other.restore_params(other.best() or 0, trainer.like.params)
      origin = f"the parameters of {train.init_params}"
    key = jax.random.key(config.seed)
    state = train_state.create(trainer.family, trainer.optimizer, trainer.like, key, params)
  print(f"{name}: {trainer.steps} steps at most, starting from {origin}.", flush=True)
  writer = metrics.Writer(
    folder,
    from_step=progress.step,
    tensorboard=config.metrics.tensorboard,
    wandb_project=config.metrics.wandb_project,
  )
  peak = budgets.PEAK_FLOPS.get(jax.devices()[0].device_kind)
  state, progress = loop.train(
    name,
    schedule,
    trainer.step,
    state,
    progress,
    pipeline.batches(batches, trainer.where_batch, progress.step, trainer.steps),
    checkpoints,
    writer,
    tokens_per_step=trainer.tokens_per_step,
    flops_per_step=trainer.flops_per_step,
    peak_flops=peak and peak * trainer.mesh.size,
    metadata={"phase": name, "made_from": artifact.made_from(folder), "config": to_dict(config)},
    evaluate=validate,
  )
  writer.close()
  best = checkpoints.best()
  out = state.params
  if best is not None and best != progress.step:
    out = checkpoints.restore_params(best, trainer.like.params)
  checkpoints.close()
  return out, progress


def _other(folder: str) -> Checkpoints:
  if not Path(folder).is_dir():
    raise UserError(f"{folder} is not a folder of checkpoints to begin from.")
  checkpoints = Checkpoints(Path(folder), read_only=True)
  if checkpoints.latest() is None:
    raise UserError(f"{folder} has no complete checkpoint to begin from.")
  return checkpoints


def spent(book: str, phase: str, trainer: Trainer, progress: loop.Progress) -> budgets.Entry:
  steps = progress.step
  return budgets.entry(
    book,
    phase,
    tokens=steps * trainer.tokens_per_step,
    flops=steps * trainer.flops_per_step,
    seconds=progress.seconds,
    devices=trainer.mesh.size,
  )


def what_matters(train: TrainConfig) -> dict[str, Any]:
  """Returns the fields that change the outcome."""
  fields = to_dict(train)
  return {key: fields[key] for key in fields if key not in ("log_every", "checkpoint_every")}
