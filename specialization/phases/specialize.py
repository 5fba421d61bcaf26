"""Phase `specialize`: one cell of the study, from a pretrained method to a fine-tuned model."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import artifact, budgets
from specialization.checkpoint import Checkpoints
from specialization.config import Config
from specialization.data import pipeline, sampler
from specialization.data.teacher import TeacherCache
from specialization.errors import UserError
from specialization.models import Params
from specialization.phases import distill, together
from specialization.phases.build import (
  Trainer,
  fine_tuner,
  fine_tuning_steps,
  flat_mesh,
  forward_flops,
  specialization_limit,
)
from specialization.phases.choose import Choice, about, choose
from specialization.phases.fit import Start, fit, spent, what_matters
from specialization.phases.prepare import DomainStores, Prepared
from specialization.phases.pretrain import Pretrained
from specialization.strict import to_dict
from specialization.study import Cell
from specialization.train import loop
from specialization.train.step import Batch


class Specialization:
  """A cell: choose and materialize the small transformer, fine-tune it on the domain."""

  def __init__(
    self,
    config: Config,
    workdir: Path,
    cell: Cell,
    pretrained: Pretrained,
    teacher: "Specialization | None",
  ):
    self.cell, self.config, self.pretrained, self.teacher = cell, config, pretrained, teacher
    self.row = config.methods[cell.method]
    self.folder = workdir / "specialize" / cell.name
    self.data: Prepared = pretrained.data

  @functools.cached_property
  def domain(self) -> DomainStores:
    return self.data.domain(self.cell.domain)

  @functools.cached_property
  def made_from(self) -> dict[str, Any]:
    s, row, cell = self.config.specialize, self.row, self.cell
    teaching = {}
    if self.teacher:
      distillation = to_dict(self.config.distillation)
      teaching = {"teacher": artifact.fingerprint(self.teacher.made_from), **distillation}
    return {
      "pretrained": artifact.fingerprint(self.pretrained.made_from),
      "train": self.domain.train.hash,
      "validation": self.domain.validation.hash,
      "domain_tokens": cell.domain_tokens,
      "choose": row.choose,
      "choose_tokens": s.choose_tokens if row.choose == "lowest_loss" else 0,
      "replay": self._replay,
      "recipe": list(fine_tuning_steps(self.config, row, cell.domain_tokens)),
      "most_flops": min(self._limit, 1e99),
      "evaluate_every": s.evaluate_every,
      "patience": s.patience,
      "train_config": what_matters(s.train),
      "distillation": teaching,
    }

  @property
  def _limit(self) -> float:
    """FLOPs that all for this domain may take, save what is left to students."""
    return specialization_limit(self.config, self.cell.method, self.cell.domain_tokens)

  @property
  def _replay(self) -> float:
    """The share of generic rows; a method without pretraining knows the domain alone."""
    return 0.0 if self.row.strategy == "none" else self.config.specialize.replay

  @property
  def learning_rate(self) -> float:
    """The peak of fine-tuning's."""
    _, factor = fine_tuning_steps(self.config, self.row, self.cell.domain_tokens)
    return self.config.specialize.train.optimizer.learning_rate * factor

  def record(self) -> dict[str, Any]:
    """Returns the fine-tuning's result.

    Raises:
      UserError: it was not done yet.
    """
    found = together.read(self.folder / "result.json", self.made_from)
    if found is None:
      raise UserError(f"{self.cell.name} is not specialized yet: run `specialize` first.")
    return found

  def result(self) -> dict[str, Any]:
    """Returns the fine-tuning's result, doing it now if it is not there yet."""
    together.claim(self.folder, self.made_from)
    path = self.folder / "result.json"
    found = together.read(path, self.made_from)
    if found:
      return found
    s, cell = self.config.specialize, self.cell
    with jax.set_mesh(flat_mesh(self.config)):
      choice = choose(
        self.row.choose, self.pretrained, self.domain, cell.domain_tokens, s.choose_tokens
      )
      taught = self.teacher.paid() if self.teacher else []
      left = self._limit - self._spent([*choice.ledger, *taught])
      steps, factor = fine_tuning_steps(
        self.config, self.row, cell.domain_tokens, left / len(choice.mixtures)
      )
      runs, entries = self._fine_tune(choice, steps, factor)
    ledger = [*taught, *choice.ledger, *entries]
    losses = [loop.lowest(progress.looks) for progress in runs]
    best = int(np.argmin(losses))
    mixture, progress, said = choice.mixtures[best], runs[best], choice.about
    if len(runs) > 1:
      histogram = self.domain.train.histogram(self.data.tree, len(mixture), cell.domain_tokens)
      said = about(self.row.choose, best, histogram) | {"validation": losses}
    whole, _ = fine_tuning_steps(self.config, self.row, cell.domain_tokens)
    reason = "end of the schedule" if steps == whole else "end of the budget"
    if loop.exhausted(progress.looks, s.patience):
      reason = f"no improvement in {s.patience} looks"
    return together.write(
      path,
      self.made_from,
      {
        "mixture": mixture.tolist(),
        "expert": said,
        "folder": self._folder(best, choice).name,
        "ledger": [dataclasses.asdict(entry) for entry in ledger],
        "stopped": {
          "step": progress.step,
          "reason": reason,
          "best_step": loop.best_step(progress.looks),
        },
        "curve": progress.looks,
        "used_tokens": self._rows * (self.config.sequence_length + 1),
      },
    )

  @functools.cached_property
  def _rows(self) -> int:
    return self.domain.train.first(self.cell.domain_tokens)

  def _folder(self, expert: int, choice: Choice) -> Path:
    """Returns where a fine-tuning's checkpoints are: of several, each has a folder of its own."""
    return self.folder / f"expert-{expert}" if len(choice.mixtures) > 1 else self.folder

  def _spent(self, entries: list[budgets.Entry]) -> float:
    """Returns the FLOPs that are gone from this domain's budget before fine-tuning."""
    before = [budgets.Entry(**entry) for entry in self.pretrained.record()["ledger"]]
    return budgets.bound([*before, *entries], "specialization")

  def paid(self) -> list[budgets.Entry]:
    """Returns what this cell cost as a teacher: its pretraining and all that came after."""
    entries = [*self.pretrained.record()["ledger"], *self.record()["ledger"]]
    return [budgets.Entry(**entry | {"phase": f"teacher: {entry['phase']}"}) for entry in entries]

  def _fine_tune(
    self, choice: Choice, steps: int, factor: float
  ) -> tuple[list[loop.Progress], list[budgets.Entry]]:
    """Returns how the fine-tuning of each mixture went, and what all of it cost."""
    s, config, transformer = self.config.specialize, self.config, self.pretrained.family.transformer
    trainer = fine_tuner(
      transformer,
      s.train,
      config.sequence_length,
      flat_mesh(config),
      steps,
      factor,
      config.distillation if self.teacher else None,
    )
    rows = sampler.ReplaySampler(
      self._rows, self.data.train.n_rows, self._replay, s.train.batch_rows, self.cell.seed
    )
    teach, cache = self._lessons(trainer, rows)
    feed = pipeline.Pipeline(rows, [self.domain.train, self.data.train], cache)
    schedule = loop.Schedule(
      steps,
      s.train.log_every,
      s.train.checkpoint_every,
      s.evaluate_every,
      s.patience,
      keep_last=s.train.keep_last,
      keep_every=s.train.keep_every,
    )
    evaluator, runs = self.pretrained.evaluator, list[loop.Progress]()
    entries: list[budgets.Entry] = []
    if cache:
      tokens = cache.n_rows * config.sequence_length
      entries.append(self._passes(tokens, cache.seconds, trainer))
    for expert, mixture in enumerate(choice.mixtures):
      folder, name = self._folder(expert, choice), f"specialize {self.cell.name}"
      if folder != self.folder:
        together.claim(folder, self.made_from | {"expert": expert})
        name += f", expert {expert}"
      progress = fit(
        name,
        folder,
        trainer,
        schedule,
        feed,
        config,
        Start(
          self.data.tokenizer.digest,
          s.train.init_state,
          s.train.init_params,
          functools.partial(self.pretrained.materialize, mixture),
        ),
        teach=teach,
        validate=lambda params: evaluator.score(params, self.domain.validation).nll,
      )
      looked = len(progress.looks) * self.domain.validation.n_tokens
      entries += [
        spent("specialization", name, trainer, progress),
        budgets.entry(
          "specialization", budgets.VALIDATION, looked, looked * evaluator.flops_per_token
        ),
      ]
      if teach:  # Their time is part of the fine-tuning's.
        entries.append(self._passes(progress.step * trainer.tokens_per_step, 0.0, trainer))
      runs.append(progress)
    return runs, entries

  def _lessons(
    self, trainer: Trainer, rows: sampler.ReplaySampler
  ) -> tuple[Callable[[Batch], Batch] | None, TeacherCache | None]:
    """Returns what adds the teacher's word to a batch, or where it lies on disk."""
    if not self.teacher:
      return None, None
    config, c = self.config, self.config.distillation
    transformer = self.teacher.pretrained.family.transformer
    ask = distill.make_ask(transformer, c, trainer.mesh, *rows.shape, config.sequence_length)
    params = self.teacher.params()
    if not c.cache:
      return distill.online(ask, params), None
    plain = {k: trainer.where_batch[k] for k in ("tokens", "cluster", "mask")}
    return None, distill.cached(
      ask,
      params,
      self.teacher.made_from,
      c,
      rows,
      trainer.steps,
      [self.domain.train, self.data.train],
      self.folder / "teacher",
      plain,
      transformer.vocab_size,
    )

  def _passes(self, tokens: int, seconds: float, trainer: Trainer) -> budgets.Entry:
    """Books the teacher's passes over so many tokens."""
    assert self.teacher is not None
    flops = tokens * forward_flops(self.config, self.teacher.row)
    return budgets.entry(
      "specialization", "teacher: forward passes", tokens, flops, seconds, trainer.mesh.size
    )

  def params(self) -> Params:
    """Returns the fine-tuned parameters with the lowest validation loss."""
    transformer, where = self.pretrained.family.transformer, self.pretrained.evaluator.where_params
    like = jax.tree.map(
      lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w),
      transformer.abstract()[0],
      where,
    )
    with contextlib.closing(self.checkpoints()) as checkpoints:
      return checkpoints.restore_params(checkpoints.best() or 0, like)

  def checkpoints(self) -> Checkpoints:
    """Returns those of the fine-tuning, of which the best one is the cell's model.

    Raises:
      UserError: it was not specialized yet.
    """
    done = self.record()
    folder = self.folder if done["folder"] == self.folder.name else self.folder / done["folder"]
    return Checkpoints(folder / "checkpoints", read_only=True)
