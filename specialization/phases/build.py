"""Builders: from the configuration to meshes, models, compiled steps and evaluators."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from specialization import attention, budgets, evaluate, losses, optim, sharding
from specialization.config import Config, DistillationConfig
from specialization.data import pipeline, store
from specialization.errors import UserError
from specialization.method import MethodConfig, TrainConfig
from specialization.models import Family, Params, Transformer, make_family
from specialization.sharding import AnyMesh, Devices
from specialization.train import state as train_state
from specialization.train import step as train_step


def flat_mesh(config: Config, devices: Devices = None) -> AnyMesh:
  """Returns the mesh of a single transformer: the expert axis becomes part of the data axis."""
  full = sharding.make_mesh(config.mesh, devices)
  sizes = dict(full.shape)
  flat = dataclasses.replace(
    config.mesh,
    expert=1,
    data=sizes["data"] * sizes["expert"],
    fsdp=sizes["fsdp"],
    model=sizes["model"],
  )
  return sharding.make_mesh(flat, devices)


def preparing_mesh(config: Config) -> AnyMesh:
  """Returns the mesh on which text is embedded and clustered, by the process that writes."""
  if jax.process_count() == 1:
    return flat_mesh(config)
  alone = dataclasses.replace(config.mesh, expert=1, data=-1, fsdp=1, model=1)
  return sharding.make_mesh(alone, jax.local_devices())


def make_transformer(config: Config, row: MethodConfig) -> Transformer:
  return Transformer(config.sizes[row.size], config.tokenizer.vocab_size, config.compute)


def make_method(config: Config, row: MethodConfig) -> Family:
  return make_family(row.family, make_transformer(config, row), row.experts, row.options)


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
  mesh: AnyMesh


def flops_per_step(family: Family, train: TrainConfig, length: int) -> float:
  """Model FLOPs of a training step: rows, and forming the experts in the batch."""
  t = family.transformer
  per_token = budgets.train_flops_per_token(t.config, t.vocab_size, length)
  forming = 3 * train.groups * family.materialize_flops()
  return float(train.batch_rows * length * per_token + forming)


def make_trainer(
  family: Family,
  train: TrainConfig,
  length: int,
  mesh: AnyMesh,
  steps: int,
  *,
  complete: bool,
  longest: int = 0,
  factor: float = 1.0,
  loss: train_step.Loss = losses.next_token,
  extras: Mapping[str, int] = MappingProxyType({}),
) -> Trainer:
  """Builds optimizer, state shapes and step; nothing is compiled or allocated yet.

  Args:
    family: what is trained.
    train: how.
    length: of a row.
    mesh: on what.
    steps: of the schedule.
    complete: see `loss_and_grads`.
    longest, factor: see `optim.schedule`.
    loss: the objective.
    extras: what it needs of a batch, see `batch_shardings`.

  Raises:
    UserError: shapes that do not divide over the mesh, or attention that its devices cannot do.
  """
  _check_kernels(family.transformer, length, mesh)
  rows, flops = train.batch_rows // train.groups, flops_per_step(family, train, length)
  microbatches = family.transformer.compute.microbatches
  train_step.cuts(train.groups, rows, microbatches, sharding.parts(mesh, "group"))
  tx = optim.make_optimizer(train.optimizer, steps, family.shapes(), family.axes(), factor, longest)
  like = train_state.abstract(family, tx, mesh)
  where = train_step.batch_shardings(mesh, train.groups, rows, length, extras)
  step = train_step.make_step(
    family, loss, tx, mesh, like, where, complete=complete, microbatches=microbatches
  )
  return Trainer(family, tx, like, step, where, steps, train.batch_rows * length, flops, mesh)


def _check_kernels(transformer: Transformer, length: int, mesh: AnyMesh) -> None:
  if isinstance(mesh, Mesh):
    platform = mesh.devices.flat[0].platform
    parts = sharding.parts(mesh, "heads")
    attention.check(transformer.compute, transformer.config, length, platform, parts)


def pretraining_mesh(config: Config, row: MethodConfig, devices: Devices = None) -> AnyMesh:
  if row.experts == 1:
    return flat_mesh(config, devices)
  return sharding.make_mesh(config.mesh, devices)


def pretraining_steps(config: Config, row: MethodConfig, family: Family, share: float = 1.0) -> int:
  """Returns a share of the horizon's steps, or of as many as the budget of its book pays for.

  Raises:
    UserError: the whole is not one step.
  """
  train, length = row.pretrain, config.sequence_length
  tokens = train.batch_rows * length
  if row.strategy == "importance":
    most = specialization_limit(config)
    if math.isfinite(most):  # Fine-tuning comes after, and takes what its recipe says at most.
      most -= max(_recipe_flops(config, row, n) for n in config.specialize.domain_tokens)
  else:
    most = budgets.generic_limit(config.budgets)
    if math.isfinite(most):  # What it needs is pretrained within the same budget.
      needs = ((row.teacher, 1.0), (row.branch, row.branch_share))
      most -= sum(_generic_flops(config, name, part) for name, part in needs if name)
  steps = budgets.steps(train.horizon, tokens, flops_per_step(family, train, length), most)
  return max(1, round(share * steps))


def _generic_flops(config: Config, method: str, share: float) -> float:
  """Returns what the generic book has of a method's pretraining and of what that branches from."""
  row = config.methods[method]
  flops = _generic_flops(config, row.branch, row.branch_share) if row.branch else 0.0
  if row.pretrains and row.strategy != "importance":
    family = make_method(config, row)
    step = flops_per_step(family, row.pretrain, config.sequence_length)
    flops += pretraining_steps(config, row, family, share) * step
  return flops


def specialization_limit(config: Config, method: str = "", domain_tokens: int = 0) -> float:
  """Returns the FLOPs that may be spent on one domain.

  Args:
    config: of the study.
    method: if it teaches others it leaves what their fine-tuning takes at most; "": none.
    domain_tokens: of the fine-tuning.
  """
  most = budgets.specialization_limit(config.budgets)
  if not method or math.isinf(most):
    return most
  students = [row for row in config.methods.values() if row.teacher == method]
  return most - max((_recipe_flops(config, row, domain_tokens) for row in students), default=0.0)


def _recipe_flops(config: Config, row: MethodConfig, domain_tokens: int) -> float:
  """Returns the FLOPs that a fine-tuning takes at most."""
  return fine_tuning_steps(config, row, domain_tokens)[0] * fine_tuning_flops(config, row)


def pretrainer(
  config: Config,
  row: MethodConfig,
  share: float = 1.0,
  devices: Devices = None,
) -> Trainer:
  """Builds a method's pretraining of a share of its horizon, for some devices or those there are.

  Raises:
    UserError: as `make_trainer` and `pretraining_steps`, a family or option that is unknown, or a
      family that has no branches.
  """
  family = make_method(config, row)
  if row.branch:
    jax.eval_shape(family.branch, family.transformer.abstract()[0])
  return make_trainer(
    family,
    row.pretrain,
    config.sequence_length,
    pretraining_mesh(config, row, devices),
    pretraining_steps(config, row, family, share),
    complete=row.strategy == "balanced",
    longest=pretraining_steps(config, row, family),
  )


def fine_tuning_steps(
  config: Config, row: MethodConfig, domain_tokens: int, most_flops: float = math.inf
) -> tuple[int, float]:
  """Returns steps at most and learning rate factor for so many domain tokens (arXiv 2402.01093).

  Raises:
    UserError: no row of the recipe serves, or the limit is too low for one step.
  """
  s = config.specialize
  for most, factor, steps in s.recipe:
    if most == 0 or domain_tokens <= most:
      flops = fine_tuning_flops(config, row)
      tokens = s.train.batch_rows * config.sequence_length
      steps = min(steps, budgets.steps(s.train.horizon, tokens, flops, most_flops))
      return steps, factor * row.fine_tuning_rate
  raise UserError(
    f"specialize.recipe has no row for {domain_tokens} domain tokens: end it with a row for 0"
    " (any)."
  )


def fine_tuning_flops(config: Config, row: MethodConfig) -> float:
  """Returns the model FLOPs of a fine-tuning step, its teacher's forward pass included.

  A cached teacher passes over each row once, so this is what it costs at most.
  """
  per_token = 3 * forward_flops(config, row)
  if row.teacher:
    per_token += forward_flops(config, config.methods[row.teacher])
  return config.specialize.train.batch_rows * config.sequence_length * per_token


def forward_flops(config: Config, row: MethodConfig) -> float:
  """Returns the model FLOPs of a forward pass of a method's small model, per token."""
  model, vocab_size = config.sizes[row.size], config.tokenizer.vocab_size
  return float(budgets.forward_flops_per_token(model, vocab_size, config.sequence_length))


@functools.lru_cache(maxsize=8)
def fine_tuner(
  transformer: Transformer,
  train: TrainConfig,
  length: int,
  mesh: Mesh,
  steps: int,
  factor: float,
  distillation: DistillationConfig | None,
) -> Trainer:
  """The fine-tuning step: one compilation serves all cells of the same recipe."""
  family = make_family("dense", transformer, 1, {})
  loss, extras = losses.next_token, dict[str, int]()
  if distillation is not None:
    loss = functools.partial(
      losses.distillation, weight=distillation.weight, temperature=distillation.temperature
    )
    extras = teaching(distillation, transformer.vocab_size)
  return make_trainer(
    family, train, length, mesh, steps, complete=True, factor=factor, loss=loss, extras=extras
  )


def teaching(distillation: DistillationConfig, vocab_size: int) -> dict[str, int]:
  """Returns what the loss needs of a teacher: names and how many numbers per target."""
  top_k = distillation.top_k
  if 0 < top_k < vocab_size:
    return {"teacher_log_probs": top_k, "teacher_ids": top_k}
  return {"teacher_log_probs": vocab_size}


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Scores one size of transformer on the stores of a study."""

  evaluator: Callable[[Any, train_step.Batch], tuple[jax.Array, jax.Array]]
  where_params: Any
  where_batch: Any
  rows: int
  flops_per_token: float

  def score(
    self, params: Params, on: store.Store, rows: np.ndarray | None = None
  ) -> evaluate.Score:
    """Returns the loss on some rows of a store or on all; its bytes are those of all."""
    batches = pipeline.evaluation_batches(on, self.rows, self.where_batch, rows)
    return evaluate.score(self.evaluator, params, batches, on.n_bytes)


@functools.lru_cache(maxsize=8)
def make_evaluator(transformer: Transformer, length: int, rows: int, mesh: Mesh) -> Evaluator:
  _check_kernels(transformer, length, mesh)
  shapes, axes = transformer.abstract()
  where = sharding.shardings(mesh, axes, shapes)
  where_batch = train_step.batch_shardings(mesh, 1, rows, length)
  flops = float(budgets.forward_flops_per_token(transformer.config, transformer.vocab_size, length))
  compiled = evaluate.make_evaluator(transformer, mesh, where, where_batch)
  return Evaluator(compiled, where, where_batch, rows, flops)
