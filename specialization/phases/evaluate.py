"""Phase `evaluate`: what a cell's model is worth, on held-out text before and after fine-tuning."""

import dataclasses
import functools
import os
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specialization import budgets
from specialization.config import Config
from specialization.data.importance import entropy
from specialization.phases import together
from specialization.phases.build import flat_mesh
from specialization.phases.specialize import Specialization


class Evaluation:
  """The test of one cell: its row of the study."""

  def __init__(self, config: Config, workdir: Path, specialization: Specialization, command: str):
    self._config, self._command, self._of = config, command, specialization
    self._path = workdir / "results" / f"{specialization.cell.name}.json"

  def result(self) -> dict[str, Any]:
    """Returns the row, testing now if it is not there yet.

    Raises:
      UserError: the cell was not specialized yet.
    """
    of, config = self._of, self._config
    cell, row, pretrained, data = of.cell, of.row, of.pretrained, of.data
    generic = data.validation
    stores = {"domain": of.domain.test, "generic": generic, "rolling": of.domain.rolling}
    made_from = of.made_from | {
      "test": of.domain.test.hash,
      "rolling": of.domain.rolling.hash,
      "generic": generic.hash,
    }
    found = together.read(self._path, made_from)
    if found:
      return found
    done, began = of.record(), pretrained.record()
    evaluator, transformer = pretrained.evaluator, pretrained.family.transformer
    with jax.set_mesh(flat_mesh(config)):
      mixture, after = np.asarray(done["mixture"]), of.params()
      before = {k: pretrained.score(mixture, stores[k]) for k in ("domain", "generic")}
      before["routed"] = pretrained.routed_score(generic)
      started = time.monotonic()
      tested = {k: evaluator.score(after, s) for k, s in stores.items()}
      seconds = time.monotonic() - started
    scores = {
      when: {k: dataclasses.asdict(score) for k, score in found.items()}
      for when, found in (("before", before), ("after", tested))
    }
    said = " -> ".join(f"{score['domain'].perplexity:.2f}" for score in (before, tested))
    rolling = f"{tested['rolling'].perplexity:.2f} in lm-eval's windows"
    print(f"evaluate {cell.name}: perplexity {said} ({rolling}).", flush=True)
    tokens = sum(s.n_tokens for s in stores.values())
    routed = of.domain.test.n_tokens + generic.n_tokens * (1 + (pretrained.family.clusters > 1))
    per_token, devices = evaluator.flops_per_token, flat_mesh(config).size
    tests = [
      # Done once for many cells.
      budgets.entry("inference", "test before", routed, routed * per_token),
      budgets.entry("inference", "test", tokens, tokens * per_token, seconds, devices),
    ]
    prepared = [dataclasses.asdict(entry) for entry in [*data.ledger(cell.domain), *tests]]
    return together.write(
      self._path,
      made_from,
      {
        "method": cell.method,
        "family": row.family,
        "strategy": row.strategy,
        "clusters": row.clusters,
        "objective": row.objective,
        "size": row.size,
        "learning_rates": {
          "pretraining": row.pretrain.optimizer.learning_rate,
          "fine_tuning": of.learning_rate,
        },
        "domain": cell.domain,
        "domain_tokens": cell.domain_tokens,
        "share": cell.share,
        "seed": cell.seed,
        "pretraining": pretrained.run.name,
        "expert": done["expert"],
        "histograms": self._histograms(),
        "importance": began["importance"],
        "parameters": {
          "pretraining": pretrained.family.parameters() if row.strategy != "none" else 0,
          "inference": budgets.parameters(transformer.config, transformer.vocab_size),
        },
        **scores,
        "ledger": [*began["ledger"], *done["ledger"], *prepared],
        "stopped": done["stopped"],
        "curve": done["curve"],
        "used_tokens": done["used_tokens"],
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "command": self._command,
      },
    )

  def _histograms(self) -> dict[str, dict[str, float]]:
    """Returns how the domain lies on the clusters of each level."""
    of, found = self._of, {}
    for level in self._config.clusters.levels:
      histogram = of.domain.train.histogram(of.data.tree, level, of.cell.domain_tokens)
      found[str(level)] = {"top_share": float(histogram.max()), "entropy": entropy(histogram)}
    return found


@functools.cache
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
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  processor = f"{cores} core{'s' * (cores != 1)} of {cpu}"
  return processor if kind == "cpu" else f"{len(devices)} x {kind}, {processor}"
