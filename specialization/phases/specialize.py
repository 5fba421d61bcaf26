"""Phases `specialize` and `evaluate`: one cell of the study."""

import dataclasses
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import artifact, budgets
from specialization.checkpoint import Checkpoints
from specialization.config import Config
from specialization.data import pipeline, sampler
from specialization.errors import UserError
from specialization.models import Params
from specialization.phases.build import dense_trainer, flat_mesh
from specialization.phases.fit import fit, spent, what_matters
from specialization.phases.prepare import DomainStores, Prepared
from specialization.phases.pretrain import Pretrained
from specialization.study import Cell, read_result, write_result
from specialization.train import loop


class Specialization:
  """A cell: choose and materialize the small transformer, fine-tune it on the domain, test it."""

  def __init__(self, config: Config, workdir: Path, cell: Cell, pretrained: Pretrained):
    self.cell, self.config, self.pretrained = cell, config, pretrained
    self.folder = workdir / "specialize" / cell.name
    self.results = workdir / "results" / f"{cell.name}.json"
    self.data: Prepared = pretrained.data
    self.domain: DomainStores = self.data.domain(cell.domain)
    s = config.specialize
    self.recipe = recipe(s.recipe, cell.domain_tokens)
    self.made_from = {
      "pretrained": artifact.fingerprint(pretrained.made_from),
      "train": self.domain.train.hash,
      "validation": self.domain.validation.hash,
      "domain_tokens": cell.domain_tokens,
      "choose": s.choose,
      "choose_tokens": s.choose_tokens if s.choose == "lowest_loss" else 0,
      "replay": s.replay,
      "recipe": list(self.recipe),
      "evaluate_every": s.evaluate_every,
      "patience": s.patience,
      "train_config": what_matters(s.train),
    }

  def result(self) -> dict[str, Any]:
    """Returns the fine-tuning's result, doing it now if it is not there yet."""
    artifact.claim(self.folder, self.made_from)
    path = self.folder / "result.json"
    found = read_result(path, self.made_from)
    if found:
      return found
    s, cell = self.config.specialize, self.cell
    mesh = flat_mesh(self.config)
    n_rows = self.domain.train.first(cell.domain_tokens)
    with jax.set_mesh(mesh):
      mixture, expert, entries = self._choose(n_rows)
      factor, max_steps = self.recipe
      transformer = self.pretrained.family.transformer
      length = self.config.sequence_length
      trainer = dense_trainer(transformer, s.train, length, mesh, max_steps, factor)
      batches = pipeline.Pipeline(
        sampler.ReplaySampler(
          n_rows, self.data.train.n_rows, s.replay, s.train.batch_rows, self.config.seed
        ),
        [self.domain.train, self.data.train],
      )
      schedule = loop.Schedule(
        trainer.steps, s.train.log_every, s.train.checkpoint_every, s.evaluate_every, s.patience
      )
      evaluator = self.pretrained.evaluator
      _, progress = fit(
        f"specialize {cell.name}",
        self.folder,
        trainer,
        schedule,
        batches,
        self.config,
        s.train,
        params=self.pretrained.materialize(mixture),
        validate=lambda params: evaluator.score(params, self.domain.validation).nll,
      )
    looked = len(progress.looks) * self.domain.validation.n_tokens
    entries += [
      spent("specialization", f"specialize {cell.name}", trainer, progress),
      budgets.entry("specialization", "validation", looked, looked * evaluator.flops_per_token),
    ]
    early = loop.exhausted(progress.looks, s.patience)
    reason = f"no improvement in {s.patience} looks" if early else "end of the schedule"
    return write_result(
      path,
      self.made_from,
      {
        "mixture": mixture.tolist(),
        "expert": expert,
        "ledger": [dataclasses.asdict(entry) for entry in entries],
        "stopped": {
          "step": progress.step,
          "reason": reason,
          "best_step": loop.best_step(progress.looks),
        },
        "curve": progress.looks,
        "used_tokens": int(n_rows * (self.config.sequence_length + 1)),
      },
    )

  def _choose(self, n_rows: int) -> tuple[np.ndarray, dict[str, Any], list[budgets.Entry]]:
    """Returns the mixture over clusters, what to say of it, and what the choice cost."""
    family, choice = self.pretrained.family, self.config.specialize.choose
    k = family.clusters
    if k == 1:
      return np.ones(1), {"choice": "only one", "cluster": None, "share": None}, []
    histogram = self.domain.train.histogram(self.data.tree, k, self.cell.domain_tokens)
    if choice == "histogram":
      top = int(np.argmax(histogram))
      return histogram, {"choice": choice, "cluster": top, "share": histogram[top]}, []
    if choice == "most_frequent":
      best, entries = int(np.argmax(histogram)), list[budgets.Entry]()
    else:
      best, entries = self._lowest_loss(n_rows)
    expert = {"choice": choice, "cluster": best, "share": float(histogram[best])}
    return np.eye(k)[best], expert, entries

  def _lowest_loss(self, n_rows: int) -> tuple[int, list[budgets.Entry]]:
    """Returns the expert whose pretrained loss on the domain's training text is lowest."""
    most = min(self.config.specialize.choose_tokens, self.cell.domain_tokens)
    rows = min(self.domain.train.first(most), n_rows)
    k, evaluator = self.pretrained.family.clusters, self.pretrained.evaluator
    scores = [
      evaluator.score(self.pretrained.materialize(np.eye(k)[c]), self.domain.train, rows)
      for c in range(k)
    ]
    tokens = sum(score.tokens for score in scores)
    entry = budgets.entry(
      "specialization", "choose the expert", tokens, tokens * evaluator.flops_per_token
    )
    return int(np.argmin([score.nll for score in scores])), [entry]

  def evaluate(self, command: str) -> dict[str, Any]:
    """Returns the cell's row of the study, testing now if it is not there yet.

    Raises:
      UserError: the cell was not specialized yet.
    """
    generic = self.data.validation
    made_from = self.made_from | {"test": self.domain.test.hash, "generic": generic.hash}
    found = read_result(self.results, made_from)
    if found:
      return found
    done = read_result(self.folder / "result.json", self.made_from)
    if done is None:
      raise UserError(f"{self.cell.name} is not specialized yet: run `specialize` first.")
    pretrained, evaluator = self.pretrained, self.pretrained.evaluator
    transformer = pretrained.family.transformer
    with jax.set_mesh(flat_mesh(self.config)):
      mixture = np.asarray(done["mixture"])
      after = self._params(pretrained.materialize(mixture))
      stores = {"domain": self.domain.test, "generic": generic}
      scores = {
        "before": {k: dataclasses.asdict(pretrained.score(mixture, s)) for k, s in stores.items()},
        "after": {k: dataclasses.asdict(evaluator.score(after, s)) for k, s in stores.items()},
      }
    tokens = 2 * (self.domain.test.n_tokens + generic.n_tokens)
    tested = budgets.entry("inference", "test", tokens, tokens * evaluator.flops_per_token)
    ledger = pretrained.result()["ledger"] + done["ledger"]
    ledger += [dataclasses.asdict(e) for e in [*self.data.ledger(self.cell.domain), tested]]
    row = pretrained.row
    return write_result(
      self.results,
      made_from,
      {
        "method": self.cell.method,
        "family": row.family,
        "strategy": row.strategy,
        "objective": row.objective,
        "size": row.size,
        "domain": self.cell.domain,
        "domain_tokens": self.cell.domain_tokens,
        "seed": self.config.seed,
        "expert": done["expert"],
        "parameters": {
          "pretraining": pretrained.family.parameters(),
          "inference": budgets.parameters(transformer.config, transformer.vocab_size),
        },
        **scores,
        "ledger": ledger,
        "stopped": done["stopped"],
        "curve": done["curve"],
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "command": command,
      },
    )

  def _params(self, like: Params) -> Params:
    """Returns the fine-tuned parameters with the lowest validation loss."""
    checkpoints = Checkpoints(self.folder / "checkpoints")
    shapes = jax.tree.map(
      lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), like
    )
    params = checkpoints.restore_params(checkpoints.best() or 0, shapes)
    checkpoints.close()
    return params


def recipe(table: tuple[tuple[int, float, int], ...], tokens: int) -> tuple[float, int]:
  """Returns (learning rate factor, steps at most) for so many domain tokens (PAPER, section 4).

  Raises:
    UserError: no row of the table serves.
  """
  for most, factor, steps in table:
    if most == 0 or tokens <= most:
      return factor, steps
  raise UserError(
    f"specialize.recipe has no row for {tokens} domain tokens: end it with a row for 0 (any)."
  )


def hardware() -> str:
  """Returns devices and processor, for the record."""
  devices = jax.devices()
  cpu = platform.processor() or platform.machine()
  info = Path("/proc/cpuinfo")
  for line in info.read_text().splitlines() if info.exists() else []:
    if line.startswith("model name"):
      cpu = line.partition(":")[2].strip()
      break
  kind = devices[0].device_kind
  cores = os.cpu_count()
  if kind == "cpu":
    return f"{cores} cores of {cpu}"
  return f"{len(devices)} x {kind}, {cores} cores of {cpu}"
