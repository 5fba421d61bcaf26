"""One training run in a folder: where it begins, that it goes on, what it spent."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from specialization import artifact, budgets, metrics, processes, sharding
from specialization.checkpoint import Checkpoints
from specialization.config import Config
from specialization.data import pipeline
from specialization.errors import Terminated, UserError
from specialization.method import TrainConfig
from specialization.models import Params
from specialization.phases.build import Trainer
from specialization.strict import to_dict
from specialization.train import loop
from specialization.train import state as train_state
from specialization.train.step import Batch


@dataclasses.dataclass(frozen=True)
class Start:
  """Where a run begins if it has no checkpoint of its own; the first of these that is given.

  Attributes:
    tokenizer: its digest; another study's run has to have the same.
    state: folder of another run's checkpoints, of which the full state is taken; "": none.
    params: of another run's, of which the parameters are taken; "": none.
    given: makes parameters, or None.
    origin: of these, for people.
    seed: of parameters that are drawn.
    trunk: checkpoints of a longer run and the step up to which this run would be the same: taken
      before all others if that step is there.
  """

  tokenizer: str
  state: str
  params: str
  given: Callable[[], Params] | None = None
  origin: str = "materialized parameters"
  seed: int = 0
  trunk: tuple[Path, int] | None = None


def _begin(
  start: Start, trainer: Trainer, checkpoints: Checkpoints
) -> tuple[train_state.TrainState, loop.Progress, str]:
  """Returns the state to begin with, the progress so far, and where both come from."""
  own = checkpoints.resume(trainer.like)
  if own is not None:
    state, metadata, step = own
    origin = f"its own checkpoint of step {step}"
    here = _where(trainer)
    if "where" in metadata and metadata["where"] != here:  # Earlier versions did not write it.
      origin += f" of {metadata['where']}, now {here}"
    return state, loop.Progress.of(metadata["progress"]), origin
  if start.trunk and start.trunk[0].is_dir():
    folder, step = start.trunk
    with contextlib.closing(Checkpoints(folder, read_only=True)) as trunk:
      if trunk.has(step):
        state, metadata = trunk.restore(step, trainer.like)
        progress = loop.Progress.of(metadata["progress"])
        return state, progress, f"step {step} of {folder.parent.name}"
  if start.state:
    with other_run(start.state, start.tokenizer) as other:
      state, metadata = other.restore(other.latest() or 0, trainer.like)
    progress = loop.Progress(step=metadata["progress"]["step"])
    return state, progress, f"the full state of {start.state} at step {progress.step}"
  params, origin = None, "scratch"
  if start.params:
    with other_run(start.params, start.tokenizer) as other:
      params = other.restore_params(other.best() or 0, trainer.like.params)
    origin = f"the parameters of {start.params}"
  elif start.given:
    params, origin = start.given(), start.origin
  key = jax.random.key(start.seed)
  state = train_state.create(trainer.family, trainer.optimizer, trainer.like, key, params)
  return state, loop.Progress(), origin


def _where(trainer: Trainer) -> str:
  count = processes.count()
  return f"{count} x {trainer.mesh.size // count} devices ({sharding.sizes(trainer.mesh)})"


def fit(
  name: str,
  folder: Path,
  trainer: Trainer,
  schedule: loop.Schedule,
  batches: pipeline.Pipeline,
  config: Config,
  start: Start,
  *,
  teach: Callable[[Batch], Batch] | None = None,
  validate: Callable[[Params], float] | None = None,
) -> loop.Progress:
  """Trains in a folder from the furthest point that is there; the parameters lie in it.

  Args:
    name: for people.
    folder: of checkpoints and metrics.
    trainer, schedule, batches, config: what is trained, when what happens, on what.
    start: where it begins.
    teach: adds to a batch what the loss needs of a teacher.
    validate: parameters -> validation loss.
  """
  checkpoints = Checkpoints(
    folder / "checkpoints",
    keep=schedule.keep,
    last=schedule.keep_last,
    every=schedule.keep_every,
  )
  state, progress, origin = _begin(start, trainer, checkpoints)
  print(f"{name}: {trainer.steps} steps at most, starting from {origin}.", flush=True)
  writer = metrics.Silent()
  if processes.is_writer():
    writer = metrics.Writer(
      folder,
      from_step=-1 if checkpoints.latest() is None else progress.step,
      tensorboard=config.metrics.tensorboard,
      wandb_project=config.metrics.wandb_project,
    )
  metadata = {
    "phase": name,
    "made_from": artifact.made_from(folder),
    "config": to_dict(config),
    "tokenizer": start.tokenizer,
    "where": _where(trainer),
  }
  if checkpoints.latest() is None and progress.step >= trainer.steps:
    # Another run's state is already this one's end, and later phases look for it here.
    record = metadata | {"progress": dataclasses.asdict(progress)}
    checkpoints.save(progress.step, state, record)
  chip = budgets.CHIPS.get(jax.devices()[0].device_kind)
  read = pipeline.batches(batches, trainer.where_batch, progress.step, trainer.steps)
  with processes.terminations() as terminated:
    _, progress = loop.train(
      name,
      schedule,
      trainer.step,
      state,
      progress,
      map(teach, read) if teach else read,
      checkpoints,
      writer,
      tokens_per_step=trainer.tokens_per_step,
      flops_per_step=trainer.flops_per_step,
      peak_flops=chip.flops * trainer.mesh.size if chip else None,
      metadata=metadata,
      evaluate=validate,
      terminated=terminated,
    )
    writer.close()
    checkpoints.finish()
    if terminated():
      raise Terminated(f"{name} was terminated, and is complete.")
  return progress


@contextlib.contextmanager
def other_run(folder: str, tokenizer: str) -> Iterator[Checkpoints]:
  """Yields another run's checkpoints.

  Args:
    folder: of them.
    tokenizer: digest of the one that both have to have.

  Raises:
    UserError: there are none, or they are of another tokenizer.
  """
  if not Path(folder).is_dir():
    raise UserError(f"{folder} is not a folder of checkpoints to begin from.")
  with contextlib.closing(Checkpoints(Path(folder), read_only=True)) as checkpoints:
    newest = checkpoints.latest()
    if newest is None:
      raise UserError(f"{folder} has no complete checkpoint to begin from.")
    if checkpoints.metadata(newest)["tokenizer"] != tokenizer:
      raise UserError(
        f"{folder} was trained with another tokenizer, to which the same ids are other text: give"
        " that study's with tokenizer.file, or begin elsewhere."
      )
    yield checkpoints


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


_HOUSEKEEPING = ("log_every", "checkpoint_every", "keep_last", "keep_every")


def what_matters(train: TrainConfig) -> dict[str, Any]:
  """Returns the fields that change the outcome."""
  fields = to_dict(train)
  return {key: fields[key] for key in fields if key not in _HOUSEKEEPING}
