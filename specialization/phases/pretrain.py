"""Phase `pretrain`: one method on generic text."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import artifact, sharding
from specialization.checkpoint import Checkpoints
from specialization.config import Config, to_dict
from specialization.data import pipeline, sampler, store
from specialization.errors import UserError
from specialization.evaluate import Score
from specialization.models import Params
from specialization.phases.build import (
  Evaluator,
  flat_mesh,
  make_evaluator,
  make_method,
  pretrainer,
  pretraining_mesh,
)
from specialization.phases.fit import fit, spent, what_matters
from specialization.phases.prepare import Prepared
from specialization.study import read_result, write_result
from specialization.train import loop


class Pretrained:
  """A method's pretraining run, made if it is missing."""

  def __init__(self, config: Config, workdir: Path, name: str, data: Prepared):
    self.name, self.row, self.config, self.data = name, config.methods[name], config, data
    self.folder = workdir / "pretrain" / name
    self.family = make_method(config, self.row)
    self.mesh = pretraining_mesh(config, self.row)
    row = to_dict(self.row) | {"pretrain": what_matters(self.row.pretrain)}
    self._scores: dict[tuple[bytes, str], Score] = {}
    self.made_from = {
      "method": row,
      "model": to_dict(config.sizes[self.row.size]),
      "store": data.train.hash,
      "vocab_size": data.tokenizer.vocab_size,
      "dtype": config.compute.dtype,
      "seed": config.seed,
    }

  def result(self) -> dict[str, Any]:
    """Returns the run's result, training now if it is not there yet."""
    artifact.claim(self.folder, self.made_from)
    path = self.folder / "result.json"
    found = read_result(path, self.made_from)
    if found:
      return found
    trainer = pretrainer(self.config, self.row)
    train = self.row.pretrain
    schedule = loop.Schedule(trainer.steps, train.log_every, train.checkpoint_every)
    with jax.set_mesh(self.mesh):
      _, progress = fit(
        f"pretrain {self.name}",
        self.folder,
        trainer,
        schedule,
        pipeline.Pipeline(self._sampler(), [self.data.train]),
        self.config,
        train,
      )
    entry = spent("generic", f"pretrain {self.name}", trainer, progress)
    return write_result(path, self.made_from, {"ledger": [dataclasses.asdict(entry)]})

  @functools.cached_property
  def params(self) -> Params:
    """Returns the pretraining parameters.

    Raises:
      UserError: the method was not pretrained yet.
    """
    if not (self.folder / "result.json").exists():
      raise UserError(f"{self.name} is not pretrained in {self.folder}: run `pretrain` first.")
    where = sharding.shardings(self.mesh, self.family.axes(), self.family.shapes())
    like = jax.tree.map(
      lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), self.family.shapes(), where
    )
    checkpoints = Checkpoints(self.folder / "checkpoints")
    params = checkpoints.restore_params(checkpoints.latest() or 0, like)
    checkpoints.close()
    return params

  def materialize(self, mixture: np.ndarray) -> Params:
    """Returns the transformer of a mixture, on the mesh of single transformers."""
    return self._materialize(self.params, np.asarray(mixture, np.float32))

  @functools.cached_property
  def _materialize(self) -> Callable[[Params, np.ndarray], Params]:
    return jax.jit(self.family.materialize, out_shardings=self.evaluator.where_params)

  def score(self, mixture: np.ndarray, on: store.Store) -> Score:
    """Returns the loss before fine-tuning; many cells share a mixture, so each is scored once."""
    key = (mixture.tobytes(), on.hash)
    if key not in self._scores:
      self._scores[key] = self.evaluator.score(self.materialize(mixture), on)
    return self._scores[key]

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Of the small transformer."""
    return make_evaluator(
      self.family.transformer,
      self.config.sequence_length,
      self.config.evaluation_rows,
      flat_mesh(self.config),
    )

  def _sampler(self) -> sampler.ClusterSampler:
    data, row = self.data, self.row
    if row.strategy == "generic":
      ranges, distribution = np.array([[0, data.train.n_rows]]), np.ones(1)
    else:
      ranges = data.train.ranges(data.tree, row.clusters)
      distribution = data.train.row_histogram(data.tree, row.clusters)
    if row.strategy == "balanced":
      if not distribution.all():
        empty = int(np.argmin(distribution))
        raise UserError(
          f"Cluster {empty} of {row.clusters} has no row of text for its expert: lower"
          f" methods.{self.name}.clusters or add generic text."
        )
      distribution = np.full(row.clusters, 1 / row.clusters)
    train = row.pretrain
    return sampler.ClusterSampler(
      ranges,
      [(0, distribution)],
      train.groups,
      train.batch_rows // train.groups,
      self.config.seed,
    )
