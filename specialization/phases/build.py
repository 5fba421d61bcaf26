"""Builders: from the configuration to meshes, models, compiled steps and evaluators."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from specialization import budgets, evaluate, losses, optim, sharding
from specialization.config import Config, MethodConfig, TrainConfig
from specialization.data import pipeline, store
from specialization.errors import UserError
from specialization.models import Family, Params, Transformer, make_family
from specialization.train import state as train_state
from specialization.train import step as train_step

LOSSES = {"next_token": losses.next_token}


def flat_mesh(config: Config) -> Mesh:
  """Returns the mesh of a single transformer: the expert axis becomes part of the data axis."""
  full = sharding.make_mesh(config.mesh)
  sizes = dict(full.shape)
  flat = dataclasses.replace(
    config.mesh,
    expert=1,
    data=sizes["data"] * sizes["expert"],
    fsdp=sizes["fsdp"],
    model=sizes["model"],
  )
  return sharding.make_mesh(flat)


def make_transformer(config: Config, row: MethodConfig) -> Transformer:
  return Transformer(config.sizes[row.size], config.tokenizer.vocab_size, config.compute)


def make_method(config: Config, row: MethodConfig) -> Family:
  return make_family(row.family, make_transformer(config, row), row.clusters, row.options)


@dataclasses.dataclass(frozen=True)
class Trainer:
  """A compiled step and what goes with it."""

  family: Family
  optimizer: Any
  like: train_state.TrainState
  step: train_step.Step
  where_batch: Any
  steps: int
  tokens_per_step: int
  flops_per_step: float
  mesh: Mesh


def flops_per_step(family: Family, train: TrainConfig, length: int) -> float:
  """Model FLOPs of a training step: rows, and forming the experts in the batch."""
  t = family.transformer
  per_token = budgets.train_flops_per_token(t.config, t.vocab_size, length)
  forming = 3 * train.groups * family.materialize_flops()
  return float(train.batch_rows * length * per_token + forming)


def make_trainer(
  family: Family,
  train: TrainConfig,
  objective: str,
  length: int,
  mesh: Mesh,
  *,
  complete: bool,
  max_steps: int = 0,
  factor: float = 1.0,
) -> Trainer:
  """Builds optimizer, state shapes and step.

  Raises:
    UserError: a horizon below one step, or shapes that do not divide over the mesh.
  """
  rows, flops = train.batch_rows // train.groups, flops_per_step(family, train, length)
  microbatches = family.transformer.compute.microbatches
  if rows % microbatches:
    raise UserError(
      f"compute.microbatches={microbatches} must divide the {rows} rows of each group"
      f" (batch_rows={train.batch_rows} over groups={train.groups})."
    )
  steps = budgets.steps(train.horizon, train.batch_rows * length, flops)
  steps = min(steps, max_steps) if max_steps else steps
  tx = optim.make_optimizer(train.optimizer, steps, family.shapes(), family.axes(), factor)
  like = train_state.abstract(family, tx, mesh)
  where = train_step.batch_shardings(mesh, train.groups, rows, length)
  step = train_step.make_step(
    family, LOSSES[objective], tx, mesh, like, where, complete=complete, microbatches=microbatches
  )
  return Trainer(family, tx, like, step, where, steps, train.batch_rows * length, flops, mesh)


def pretraining_mesh(config: Config, row: MethodConfig) -> Mesh:
  return flat_mesh(config) if row.clusters == 1 else sharding.make_mesh(config.mesh)


def pretrainer(config: Config, row: MethodConfig) -> Trainer:
  """Builds a method's pretraining; nothing is compiled or allocated yet.

  Raises:
    UserError: as `make_trainer`, or a family or option that is unknown.
  """
  return make_trainer(
    make_method(config, row),
    row.pretrain,
    row.objective,
    config.sequence_length,
    pretraining_mesh(config, row),
    complete=row.strategy == "balanced",
  )


@functools.lru_cache(maxsize=8)
def dense_trainer(
  transformer: Transformer,
  train: TrainConfig,
  length: int,
  mesh: Mesh,
  max_steps: int,
  factor: float,
) -> Trainer:
  """The fine-tuning step: one compilation serves all cells of the same recipe."""
  family = make_family("dense", transformer, 1, {})
  return make_trainer(
    family, train, "next_token", length, mesh, complete=True, max_steps=max_steps, factor=factor
  )


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Scores one size of transformer on the stores of a study."""

  evaluator: Callable[[Any, train_step.Batch], tuple[jax.Array, jax.Array]]
  where_params: Any
  where_batch: Any
  rows: int
  flops_per_token: float

  def score(self, params: Params, on: store.Store, n_rows: int | None = None) -> evaluate.Score:
    batches = pipeline.evaluation_batches(on, self.rows, self.where_batch, n_rows)
    return evaluate.score(self.evaluator, params, batches, on.n_bytes)


@functools.lru_cache(maxsize=8)
def make_evaluator(transformer: Transformer, length: int, rows: int, mesh: Mesh) -> Evaluator:
  shapes, axes = transformer.abstract()
  where = sharding.shardings(mesh, axes, shapes)
  where_batch = train_step.batch_shardings(mesh, 1, rows, length)
  flops = float(budgets.forward_flops_per_token(transformer.config, transformer.vocab_size, length))
  compiled = evaluate.make_evaluator(transformer, mesh, where, where_batch)
  return Evaluator(compiled, where, where_batch, rows, flops)
