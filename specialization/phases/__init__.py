"""The phases of a study. With main.py the only part of the package that builds objects."""

import json
import time
from pathlib import Path

import jax

from specialization import budgets, metrics, report, tables
from specialization.config import Config, to_dict
from specialization.phases.build import flops_per_step, make_method, pretrainer
from specialization.phases.prepare import Prepared
from specialization.phases.pretrain import Pretrained
from specialization.phases.specialize import Specialization
from specialization.study import Cell, cells, methods

PHASES = ("prepare", "pretrain", "specialize", "evaluate", "report")


def run_verb(verb: str, config: Config, workdir: Path, only: str, command: str) -> None:
  """Runs one phase of a study, or all of them."""
  _use_compilation_cache(config)
  started = time.monotonic()
  wanted = PHASES if verb == "run" else (verb,)
  study = Study(config, workdir, only, command)
  for phase in PHASES:
    if phase in wanted:
      getattr(study, phase)()
  seconds = time.monotonic() - started
  print(f"{verb}: all is done in {workdir} ({seconds:.0f} s).", flush=True)


class Study:
  """All cells of a config in one folder; every phase skips what is already there."""

  def __init__(self, config: Config, workdir: Path, only: str, command: str):
    self._config, self._workdir, self._command = config, workdir, command
    self._cells, self._methods = cells(config, only), methods(config, only)
    self._prepared: Prepared | None = None
    self._pretrained: dict[str, Pretrained] = {}

  def prepare(self) -> None:
    """Documents, tokenizer, clusters and stores of generic text and all domains."""
    for name in self._methods:  # Mistakes are told before the text is read.
      pretrainer(self._config, self._config.methods[name])
    data = self._data()
    for domain in dict.fromkeys(cell.domain for cell in self._cells):
      data.domain(domain)
    print(f"prepare: {data.train.n_tokens:,} generic tokens in {data.train.n_rows:,} rows.")

  def pretrain(self) -> None:
    """Each method on generic text."""
    for name in self._methods:
      self._method(name).result()

  def specialize(self) -> None:
    """Each cell on its domain's text."""
    for cell in self._cells:
      self._cell(cell).result()

  def evaluate(self) -> None:
    """Each cell on held-out text, before and after."""
    with metrics.progress(len(self._cells), "evaluate", "cell") as bar:
      for cell in self._cells:
        self._cell(cell).evaluate(self._command)
        bar.update()

  def report(self) -> None:
    """Table and page of what is there."""
    expected = [(c.method, c.domain, c.domain_tokens) for c in cells(self._config)]
    page = report.write(self._workdir, self._config.name, expected, self._command)
    print(tables.terminal_table(self._workdir, expected))
    print(f"report: {page}", flush=True)

  def _data(self) -> Prepared:
    if self._prepared is None:
      self._prepared = Prepared(self._config, self._workdir)
    return self._prepared

  def _method(self, name: str) -> Pretrained:
    if name not in self._pretrained:
      self._pretrained[name] = Pretrained(self._config, self._workdir, name, self._data())
    return self._pretrained[name]

  def _cell(self, cell: Cell) -> Specialization:
    return Specialization(self._config, self._workdir, cell, self._method(cell.method))


def describe(config: Config) -> str:
  """Returns the resolved config and, per method, what it will take."""
  lines = [json.dumps(to_dict(config), indent=2), ""]
  readable = budgets.readable
  for name, row in config.methods.items():
    family, train = make_method(config, row), row.pretrain
    model, length = config.sizes[row.size], config.sequence_length
    flops = flops_per_step(family, train, length)
    steps = budgets.steps(train.horizon, train.batch_rows * length, flops)
    tokens = steps * train.batch_rows * length
    small = budgets.parameters(model, config.tokenizer.vocab_size)
    lines += [
      f"{name}: {readable(family.parameters())} parameters at pretraining,"
      f" {readable(small)} at inference",
      f"  pretraining: {steps:,} steps, {readable(tokens)} tokens, {readable(steps * flops)} FLOPs,"
      f" {tokens / small:.1f} tokens per inference parameter",
      "  inference: "
      + readable(budgets.forward_flops_per_token(model, config.tokenizer.vocab_size, length))
      + " FLOPs per token",
    ]
  return "\n".join(lines)


def _use_compilation_cache(config: Config) -> None:
  if config.compilation_cache:
    folder = Path(config.compilation_cache).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
