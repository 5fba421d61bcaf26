"""The loop: when it stops, what it writes when, and that it compiles once."""

import math
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization import metrics
from specialization.checkpoint import Checkpoints
from specialization.train import loop
from specialization.train.state import TrainState

NAN = float("nan")


@pytest.mark.parametrize(
  ("losses", "patience", "stop"),
  [
    ([3.0, 2.0, 1.0], 2, False),
    ([1.0, 2.0], 2, False),
    ([1.0, 2.0, 3.0], 2, True),
    ([1.0, 1.0, 1.0], 2, True),
    ([2.0, 3.0, 1.0], 2, False),
    ([2.0, 3.0, 1.9, 2.0], 2, False),
    ([2.0, 3.0, 1.9, 2.0, 2.0], 2, True),
    ([1.0, NAN, NAN], 2, True),
    ([NAN, 2.0, 3.0], 2, False),
    ([1.0, 2.0, 3.0, 4.0], 0, False),
    ([], 1, False),
  ],
)
def test_patience(losses, patience, stop):
  assert loop.exhausted(list(enumerate(losses)), patience) == stop


@pytest.mark.parametrize(
  ("losses", "step"), [([3.0, 1.0, 2.0], 1), ([NAN, 2.0, 3.0], 1), ([1.0, NAN], 0), ([2.0, 2.0], 0)]
)
def test_the_best_step(losses, step):
  assert loop.best_step(list(enumerate(losses))) == step


def test_a_diverged_model_has_no_lowest_loss():
  assert loop.lowest([(0, NAN), (1, 3.0), (2, 2.0)]) == 2.0
  assert loop.lowest([(0, NAN)]) == math.inf


class Kept(Checkpoints):
  """Checkpoints in a list."""

  def __init__(self, events):
    self.events, self.saved = events, []

  def save(self, step, state, metadata, validation=None):
    self.events.append(f"save {step}")
    self.saved.append(
      (step, validation, metadata["progress"] | {"looks": list(metadata["progress"]["looks"])})
    )

  def wait(self):
    self.events.append("wait")


class Loss:
  """A number that notes when it is asked for."""

  def __init__(self, events, step):
    self.events, self.step = events, step

  def __float__(self):
    if f"read {self.step}" not in self.events:
      self.events.append(f"read {self.step}")
    return float(self.step)


def run(
  tmp_path, *, validation=None, progress=None, step_fn=None, state=None, kept=None, **schedule
):
  """Runs the loop over steps that do nothing; returns events, checkpoints, lines and progress."""
  events = [] if kept is None else kept.events
  kept = kept or Kept(events)
  progress = progress or loop.Progress()

  def nothing(state, batch):
    events.append(f"step {batch['step']}")
    return state, {"loss": Loss(events, batch["step"])}

  writer = metrics.Writer(tmp_path, from_step=progress.step, tensorboard=False, wandb_project="")
  state, progress = loop.train(
    "test",
    loop.Schedule(**(dict(steps=4, log_every=1, checkpoint_every=100) | schedule)),
    step_fn or nothing,
    state or TrainState(jnp.int32(0), {}, {}),
    progress,
    ({"step": step} for step in range(progress.step + 1, 100)),
    kept,
    writer,
    tokens_per_step=10,
    flops_per_step=3.0,
    peak_flops=None,
    metadata={"phase": "test"},
    evaluate=validation,
  )
  writer.close()
  return events, kept, metrics.read(tmp_path), progress


def test_the_log_lags_one_step(tmp_path):
  events, *_ = run(tmp_path)
  assert events == [
    *("step 1", "step 2", "read 1", "step 3", "read 2", "step 4", "read 3"),
    *("read 4", "save 4", "wait"),
  ]


def test_a_steps_metrics_are_on_disk_before_its_checkpoint(tmp_path):
  events, *_ = run(tmp_path, steps=5, checkpoint_every=2)
  for step in (2, 4, 5):
    assert events.index(f"save {step}") == events.index(f"read {step}") + 1


@pytest.mark.parametrize(("log_every", "logged"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (10, [5])])
def test_lines_have_loss_and_tokens(tmp_path, log_every, logged):
  _, _, lines, _ = run(tmp_path, steps=5, log_every=log_every)
  assert [(line["step"], line["loss"], line["tokens"]) for line in lines] == [
    (step, step, 10 * step) for step in logged
  ]
  assert all(line["tokens_per_second"] > 0 and "mfu" not in line for line in lines)


def test_it_stops_when_validation_stops_improving(tmp_path):
  losses = iter([4.0, 3.0, 1.0, 2.0, 1.5, 0.0])
  _, kept, lines, progress = run(
    tmp_path, steps=50, evaluate_every=3, patience=2, validation=lambda _: next(losses)
  )
  looks = [(0, 4.0), (3, 3.0), (6, 1.0), (9, 2.0), (12, 1.5)]
  assert (progress.step, progress.looks) == (12, looks)
  assert [save[:2] for save in kept.saved] == looks
  assert [save[2]["looks"] for save in kept.saved] == [looks[:n] for n in (1, 2, 3, 4, 5)]
  assert [line for line in lines if "validation" in line] == [
    {"step": step, "validation": loss} for step, loss in looks
  ]


def test_the_last_step_is_looked_at(tmp_path):
  _, _, _, progress = run(tmp_path, steps=5, evaluate_every=3, validation=lambda _: 1.0)
  assert progress.looks == [(0, 1.0), (3, 1.0), (5, 1.0)]


def test_where_it_begins_is_looked_at_once(tmp_path):
  """Training that only makes it worse keeps what there was; a resumed run knows that look."""
  losses = iter([1.0, 2.0, 3.0])
  options = dict(steps=9, evaluate_every=1, patience=2, validation=lambda _: next(losses))
  events, kept, _, progress = run(tmp_path, **options)
  assert events[:2] == ["save 0", "step 1"]
  assert (loop.best_step(progress.looks), progress.step) == (0, 2)
  losses = iter([0.5, 3.0, 3.0])
  _, _, _, progress = run(tmp_path, progress=loop.Progress.of(kept.saved[1][2]), **options)
  assert progress.looks == [(0, 1.0), (1, 2.0), (2, 0.5), (3, 3.0), (4, 3.0)]


@pytest.mark.parametrize(
  "progress",
  [loop.Progress(step=4, seconds=7.0), loop.Progress(2, 7.0, [(1, 1.0), (2, 2.0)])],
  ids=["steps", "patience"],
)
def test_a_finished_run_does_nothing(tmp_path, progress):
  events, kept, _, after = run(tmp_path, progress=progress, evaluate_every=1, patience=1)
  assert not events + kept.saved
  assert after.seconds == 7.0


def test_seconds_add_up_over_runs(tmp_path):
  _, kept, _, progress = run(tmp_path, progress=loop.Progress(step=1, seconds=100.0))
  assert 100 < kept.saved[-1][2]["seconds"] <= progress.seconds < 160


def test_start_up_and_compilation_are_not_trainings_time(tmp_path):
  """Whatever the first batch and the first call take is left out, in each run."""
  calls = []

  def slow_at_first(state, batch):
    time.sleep(0.0 if calls else 0.5)
    calls.append(batch)
    return state._replace(step=state.step + 1), {"loss": Loss([], state.step + 1)}

  *_, progress = run(tmp_path, step_fn=slow_at_first)
  assert len(calls) > 1
  assert progress.seconds < 0.4


def test_a_loss_that_is_not_finite_is_told(tmp_path, capsys):
  def diverge(state, batch):
    return state, {"loss": np.float32("inf")}

  run(tmp_path, step_fn=diverge, steps=2)
  assert "test: the loss of step 1 is inf." in capsys.readouterr().out


def test_one_compilation_before_and_after_a_restore(tmp_path):
  """Evaluation, checkpoints and a restored state bring no second compilation of the step."""
  of, mesh = tiny.family("dense"), tiny.mesh(2, fsdp=2)
  with jax.set_mesh(mesh):
    state, step, put = tiny.trainer(of, mesh, tiny.batch(rows=4))
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )

    def step_fn(state, batch):
      return step(state, put(tiny.batch(rows=4, seed=batch["step"])))

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.events = []
    options = dict(step_fn=step_fn, kept=checkpoints, evaluate_every=1, validation=lambda _: 1.0)
    run(tmp_path, state=state, steps=2, **options)
    state, metadata = checkpoints.restore(2, like)
    before = jax.tree.map(np.array, state.params)
    _, _, _, progress = run(
      tmp_path, state=state, steps=4, progress=loop.Progress.of(metadata["progress"]), **options
    )
    after = checkpoints.restore(4, like)[0].params
    checkpoints.close()
  assert progress.step == 4
  assert step._cache_size() == 1
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(before, after)
