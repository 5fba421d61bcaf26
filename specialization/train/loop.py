"""The training loop: one for every phase and every family."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from specialization import metrics
from specialization.checkpoint import Checkpoints
from specialization.errors import Terminated
from specialization.train.state import TrainState
from specialization.train.step import Batch, Step

Look = tuple[int, float]  # step, validation nats per token


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When the loop does what, in steps.

  Attributes:
    steps: where it ends.
    log_every: metrics are written.
    checkpoint_every: the state is saved.
    evaluate_every: the validation loss is looked at and the state saved, as before the first step;
      0: never.
    patience: looks without a new lowest loss after which it stops; 0: never.
    keep: further steps at which the state is saved, for good.
    keep_last: saved states that stay while it runs, should the newest be damaged.
    keep_every: those of multiples of so many steps stay for good; 0: none.
  """

  steps: int
  log_every: int
  checkpoint_every: int
  evaluate_every: int = 0
  patience: int = 0
  keep: tuple[int, ...] = ()
  keep_last: int = 1
  keep_every: int = 0


@dataclasses.dataclass
class Progress:
  """What a resumed run must know beside the state.

  Attributes:
    step: steps done.
    seconds: spent on them and on looks, over all runs, without start-up and compilation.
    looks: validation losses so far.
  """

  step: int = 0
  seconds: float = 0.0
  looks: list[Look] = dataclasses.field(default_factory=list)

  @classmethod
  def of(cls, record: dict[str, Any]) -> "Progress":
    """Returns what was saved as JSON, which knows no tuples."""
    looks = [(int(step), float(loss)) for step, loss in record["looks"]]
    return cls(record["step"], record["seconds"], looks)


def exhausted(looks: Sequence[Look], patience: int) -> bool:
  """Whether the last `patience` looks brought no new lowest loss."""
  if not patience or len(looks) <= patience:
    return False
  losses = [_or_infinite(loss) for _, loss in looks]
  return min(losses[-patience:]) >= min(losses[:-patience])


def best_step(looks: Sequence[Look]) -> int:
  """Returns the step with the lowest loss, the first of equal ones."""
  return min(looks, key=lambda look: _or_infinite(look[1]))[0]


def lowest(looks: Sequence[Look]) -> float:
  """Returns the lowest loss, infinite if the model diverged."""
  return min(_or_infinite(loss) for _, loss in looks)


def _or_infinite(loss: float) -> float:
  """A diverged model's loss, which is not comparable, counts as the highest."""
  return math.inf if math.isnan(loss) else loss


def train(
  name: str,
  schedule: Schedule,
  step_fn: Step,
  state: TrainState,
  progress: Progress,
  batches: Iterator[Batch],
  checkpoints: Checkpoints,
  writer: metrics.Silent,
  *,
  tokens_per_step: int,
  flops_per_step: float,
  peak_flops: float | None,
  metadata: dict[str, Any],
  evaluate: Callable[[Any], float] | None = None,
  terminated: Callable[[], bool] = lambda: False,
) -> tuple[TrainState, Progress]:
  """Trains from `progress.step` to the end of the schedule or until validation stops improving.

  Args:
    name: for the progress bar.
    schedule: when what happens.
    step_fn: the compiled step.
    state: donated to the first step.
    progress: changed in place.
    batches: the batch of `progress.step`, then of the next steps.
    checkpoints: where the state is saved.
    writer: where metrics go.
    tokens_per_step: targets in a batch, masked ones included.
    flops_per_step: model FLOPs of a step.
    peak_flops: of all devices together, or None if not known: then no MFU is written.
    metadata: saved with each checkpoint.
    evaluate: parameters -> validation nats per token.
    terminated: asked after each step, whether to save and stop.

  Returns:
    The last state (not the best one: that is in the checkpoints) and the progress.

  Raises:
    Terminated: it was, and the state is saved.
  """
  before, started = progress.seconds, time.monotonic()
  bar = metrics.progress(
    schedule.steps * tokens_per_step, name, "tok", progress.step * tokens_per_step
  )
  logged = (progress.step, started)

  def log(step: int, measured: dict[str, Any]) -> None:
    nonlocal logged
    loss = float(measured["loss"])  # Waits for the step; the next one is already dispatched.
    bar.set_postfix(step=step, loss=f"{loss:.3f}", refresh=False)
    bar.update(step * tokens_per_step - bar.n)
    if not np.isfinite(loss):
      bar.write(f"{name}: the loss of step {step} is {loss}.")
    if step % schedule.log_every and step != schedule.steps:
      return
    now = time.monotonic()
    speed = (step - logged[0]) / max(now - logged[1], 1e-9)
    logged = (step, now)
    scalars = {key: float(value) for key, value in measured.items() if key != "tokens"}
    scalars |= {"tokens": step * tokens_per_step, "tokens_per_second": speed * tokens_per_step}
    if peak_flops:
      scalars["mfu"] = speed * flops_per_step / peak_flops
    writer.write(step, scalars)

  def save(validation: float | None = None) -> None:
    progress.seconds = before + time.monotonic() - started
    record = metadata | {"progress": dataclasses.asdict(progress)}
    checkpoints.save(progress.step, state, record, validation)

  def look() -> None:
    assert evaluate is not None
    loss = evaluate(state.params)
    progress.looks.append((progress.step, loss))
    writer.write(progress.step, {"validation": loss})
    save(loss)

  # ---------------------------------------------------------------- resume at the very end
  if progress.step >= schedule.steps or exhausted(progress.looks, schedule.patience):
    bar.close()
    return state, progress

  if schedule.evaluate_every and not progress.looks:
    look()  # Where it begins may be the best there is.

  # ---------------------------------------------------------------- the steps
  pending: tuple[int, dict[str, Any]] | None = None
  first = progress.step
  with bar:
    for batch in batches:
      state, measured = step_fn(state, batch)
      if progress.step == first:  # Until here readers started and steps were compiled.
        started = time.monotonic()
        logged = (first, started)
      progress.step += 1
      if pending is not None:
        log(*pending)
      pending = (progress.step, measured)
      last = progress.step >= schedule.steps
      looked = schedule.evaluate_every and (last or progress.step % schedule.evaluate_every == 0)
      due = progress.step % schedule.checkpoint_every == 0 or progress.step in schedule.keep
      stop = terminated()
      if not (looked or last or due or stop):
        continue

      log(*pending)  # A run that is killed after the checkpoint never comes back to this step.
      pending = None
      if looked:
        look()
      else:
        save()
      if last or exhausted(progress.looks, schedule.patience):
        break
      if stop:
        checkpoints.wait()
        raise Terminated(f"{name} was terminated, and saved at step {progress.step}.")
  # ---------------------------------------------------------------- the end
  checkpoints.wait()
  jax.block_until_ready(state.params)
  progress.seconds = before + time.monotonic() - started
  return state, progress
