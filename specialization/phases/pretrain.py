"""Phase `pretrain`: one method on generic text, or on generic text resampled for a domain."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import artifact, sharding
from specialization.checkpoint import Checkpoints
from specialization.config import Config
from specialization.data import importance, pipeline, sampler, store
from specialization.errors import UserError
from specialization.evaluate import Score
from specialization.models import Family, Params
from specialization.optim import shared_steps
from specialization.phases import together
from specialization.phases.build import (
  Evaluator,
  flat_mesh,
  make_evaluator,
  make_method,
  pretrainer,
  pretraining_mesh,
  pretraining_steps,
)
from specialization.phases.fit import Start, fit, other_run, spent, what_matters
from specialization.phases.prepare import Prepared
from specialization.strict import to_dict
from specialization.study import Run
from specialization.train import loop


class Pretrained:
  """A method's pretraining run, made if it is missing."""

  def __init__(
    self,
    config: Config,
    workdir: Path,
    run: Run,
    data: Prepared,
    branch: "Pretrained | None" = None,
  ):
    self.run, self.row, self._branch = run, config.methods[run.method], branch
    self.config, self.data = config, data
    self._workdir = workdir
    self.folder = workdir / "pretrain" / run.name
    self.mesh = pretraining_mesh(config, self.row)
    self._scores: dict[tuple[bytes, str], Score] = {}

  @functools.cached_property
  def family(self) -> Family:
    return make_method(self.config, self.row)

  def _steps(self, share: float) -> int:
    return pretraining_steps(self.config, self.row, self.family, share)

  @functools.cached_property
  def made_from(self) -> dict[str, Any]:
    row, config = self.row, self.config
    trained: dict[str, Any] = {"strategy": row.strategy}
    if row.strategy == "imported":
      trained["imported"] = _origin(row.pretrain.init_params)
    if row.pretrains:
      trained |= {
        "clusters": row.clusters,
        "train": what_matters(row.pretrain),
        "train_steps": self._steps(self.run.share),
        "store": self.data.train.hash,
      }
    if row.strategy == "importance":
      trained["distribution"] = self._importance[0].tolist()
    if self._branch:
      trained["branch"] = artifact.fingerprint(self._branch.made_from)
    return {
      "family": row.family,
      "options": to_dict(row.options),
      "experts": row.experts,
      "model": config.sizes[row.size].for_hash(),
      "pretraining": trained,
      "vocab_size": self.data.tokenizer.vocab_size,
      "dtype": config.compute.dtype,
      "seed": self.run.seed,
    }

  def record(self) -> dict[str, Any]:
    """Returns the run's result.

    Raises:
      UserError: it was not pretrained yet.
    """
    found = together.read(self.folder / "result.json", self.made_from)
    if found is None:
      raise UserError(
        f"{self.run.method} is not pretrained in {self.folder}: run `pretrain` first."
      )
    return found

  def result(self) -> dict[str, Any]:
    """Returns the run's result, training now if it is not there yet."""
    together.claim(self.folder, self.made_from)
    path = self.folder / "result.json"
    found = together.read(path, self.made_from)
    if found:
      return found
    if not self.row.pretrains:
      return together.write(path, self.made_from, {"ledger": [], "importance": None})
    record: dict[str, Any] = {"importance": None}
    if self.row.strategy == "importance":
      print(self.diagnosis, flush=True)
      record["importance"] = self._importance[1].record()
    train, trainer = self.row.pretrain, pretrainer(self.config, self.row, self.run.share)
    schedule = loop.Schedule(
      trainer.steps,
      train.log_every,
      train.checkpoint_every,
      keep=self._branches(),
      keep_last=train.keep_last,
      keep_every=train.keep_every,
    )
    with jax.set_mesh(self.mesh):
      progress = fit(
        f"pretrain {self.run.name}",
        self.folder,
        trainer,
        schedule,
        pipeline.Pipeline(self._sampler(), [self.data.train]),
        self.config,
        Start(
          self.data.tokenizer.digest,
          train.init_state,
          train.init_params,
          self._branched if self._branch else None,
          f"the parameters of {self._branch.run.name}" if self._branch else "",
          seed=self.run.seed,
          trunk=self._trunk(),
        ),
      )
    book = "specialization" if self.run.domain else "generic"
    entry = dataclasses.asdict(spent(book, f"pretrain {self.run.name}", trainer, progress))
    before = self._branch.record()["ledger"] if self._branch else []
    return together.write(path, self.made_from, {"ledger": [*before, entry], **record})

  def _branched(self) -> Params:
    """Returns the parameters to begin with, all experts alike."""
    assert self._branch is not None
    return jax.jit(self.family.branch, out_shardings=self._where)(self._branch.params)

  @functools.cached_property
  def _where(self) -> Any:
    """Where the pretraining parameters lie."""
    return sharding.shardings(self.mesh, self.family.axes(), self.family.shapes())

  @property
  def trunk(self) -> Run:
    """The longest run of the study, which this one may be a branch of."""
    return dataclasses.replace(self.run, share=max(self.config.study.shares))

  def _shared(self, share: float) -> int:
    """Returns how many first steps the run of a share has in common with longer ones."""
    return shared_steps(self.row.pretrain.optimizer, self._steps(share))

  def _branches(self) -> tuple[int, ...]:
    """Returns the steps at which shorter runs of the study leave this one."""
    shorter = [share for share in self.config.study.shares if share < self.run.share]
    return tuple(step for step in map(self._shared, shorter) if step)

  def _trunk(self) -> tuple[Path, int] | None:
    """Returns where the trunk keeps its checkpoints and at which step this run leaves it."""
    if self.trunk == self.run:
      return None
    folder = self._workdir / "pretrain" / self.trunk.name / "checkpoints"
    return folder, self._shared(self.run.share)

  @property
  def params(self) -> Params:
    """Returns the pretraining parameters.

    Raises:
      UserError: the method was not pretrained yet.
    """
    self.record()
    return _restored(self)

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

  def routed_score(self, on: store.Store) -> Score:
    """Returns the loss on windows grouped by leaf, each document by the expert of its cluster.

    On generic text that of arXiv 2402.01093; without experts it is that of the one model.
    """
    k = self.family.clusters
    if k == 1:
      return self.score(np.ones(1), on)
    key = (b"routed", on.hash)
    if key not in self._scores:
      ranges = enumerate(on.ranges(self.data.tree, k).tolist())
      scores = [
        self.evaluator.score(self.materialize(np.eye(k)[cluster]), on, np.arange(start, stop))
        for cluster, (start, stop) in ranges
        if stop > start
      ]
      nats, tokens = math.fsum(s.nats for s in scores), sum(s.tokens for s in scores)
      self._scores[key] = Score(nats, tokens, on.n_bytes)
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

  @property
  def diagnosis(self) -> str:
    """What importance sampling will do, in a sentence."""
    return f"pretrain {self.run.name}: {_said(self._importance[1], self.config)}"

  @functools.cached_property
  def _importance(self) -> tuple[np.ndarray, importance.Diagnosis]:
    """Returns the distribution over clusters that stands for the domain, and what it will do."""
    data, row, c = self.data, self.row, self.config.importance
    ranges = data.train.ranges(data.tree, row.clusters)
    rows = ranges[:, 1] - ranges[:, 0]
    domain = data.domain(self.run.domain).train
    counts = domain.counts(data.tree, row.clusters, self.run.domain_tokens)
    distribution = importance.smooth(counts, rows / rows.sum(), c.smoothing)
    drawn = self._steps(self.run.share) * row.pretrain.batch_rows
    diagnosis = importance.diagnose(counts, distribution, rows, drawn, c.most_repeats)
    return distribution, diagnosis

  def _sampler(self) -> sampler.Sampler:
    data, row, train = self.data, self.row, self.row.pretrain
    groups, rows, seed = train.groups, train.batch_rows // train.groups, self.run.seed
    if row.strategy == "generic":
      ranges, distribution = np.array([[0, data.train.n_rows]]), np.ones(1)
    else:
      ranges = data.train.ranges(data.tree, row.clusters)
      distribution = data.train.row_histogram(data.tree, row.clusters)
    if row.strategy == "importance":
      schedule = [(0, self._importance[0])]
      return sampler.Merged(sampler.ClusterSampler(ranges, schedule, train.batch_rows, 1, seed))
    if row.strategy == "balanced":
      if not distribution.all():
        empty = int(np.argmin(distribution))
        raise UserError(
          f"Cluster {empty} of {row.clusters} has no row of text for its expert: lower"
          f" methods.{self.run.method}.clusters or add generic text."
        )
      distribution = np.full(row.clusters, 1 / row.clusters)
    return sampler.ClusterSampler(ranges, [(0, distribution)], groups, rows, seed)


def _origin(folder: str) -> dict[str, Any]:
  """Returns what the checkpoints in a folder were made from."""
  try:
    return artifact.made_from(Path(folder).parent)
  except FileNotFoundError:
    raise UserError(
      f"{folder} is not what `import` made, or another run: set pretrain.init_params to such a"
      " folder of checkpoints."
    ) from None


def _said(d: importance.Diagnosis, config: Config) -> str:
  text = (
    f"{d.documents} documents on {d.clusters} clusters;"
    f" {d.effective_rows:,.0f} of {d.generic_rows:,} generic rows count;"
    f" KL(domain || resample) {d.kl:.3f} nats, without resampling {d.kl_generic:.3f};"
    f" a cluster is gone through {max(d.repeats):.1f} times at most."
  )
  if d.repeated > 0.05:
    text += (
      f" WARNING: {d.repeated:.0%} of the rows come from clusters that are repeated more than"
      f" {config.importance.most_repeats:g} times: take fewer clusters, more smoothing or more"
      " generic text."
    )
  return text


@functools.lru_cache(maxsize=2)
def _restored(of: Pretrained) -> Params:
  """Returns a run's parameters, kept for the next cells: those of all runs would fill memory."""
  where = of._where
  if of.row.strategy == "none":
    return jax.jit(of.family.init, out_shardings=where)(jax.random.key(of.run.seed))
  like = jax.tree.map(
    lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), of.family.shapes(), where
  )
  if of.row.strategy == "imported":
    with other_run(of.row.pretrain.init_params, of.data.tokenizer.digest) as other:
      return other.restore_params(other.best() or 0, like)
  with contextlib.closing(Checkpoints(of.folder / "checkpoints", read_only=True)) as checkpoints:
    return checkpoints.restore_params(checkpoints.latest() or 0, like)
