"""The phases of a study. With main.py the only part of the package that builds objects."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from specialization import budgets, processes, report
from specialization.config import Config
from specialization.errors import UserError
from specialization.phases import generate
from specialization.phases.adopt import adopt
from specialization.phases.build import (
  flat_mesh,
  flops_per_step,
  forward_flops,
  make_method,
  pretrainer,
  pretraining_steps,
)
from specialization.phases.evaluate import Evaluation
from specialization.phases.export import Export, checked_flags, of_cell, of_run
from specialization.phases.inference import measure
from specialization.phases.jobs import Job, complaint, locked, work
from specialization.phases.prepare import Prepared
from specialization.phases.pretrain import Pretrained
from specialization.phases.specialize import Specialization
from specialization.report.terminal import terminal_table
from specialization.strict import to_dict
from specialization.study import (
  Cell,
  Run,
  branch_of,
  cells,
  run_of,
  runs,
  teacher_of,
  with_teachers,
)

PHASES = ("prepare", "pretrain", "specialize", "evaluate", "report")
JOBS = PHASES[1:4]


def run_verb(
  verb: str, config: Config, workdir: Path, only: str, command: str, **options: Any
) -> None:
  """Runs one phase of a study, or all of them, with options of its own."""
  _use_compilation_cache(config)
  processes.agree([verb, to_dict(config), str(workdir), only])
  started = time.monotonic()
  if verb == "import":
    adopt(config, workdir, only, **options)
    return
  study = Study(config, workdir, only, command)
  if verb == "run":
    study.run()
  else:
    getattr(study, verb)(**options)
  if verb not in ("cells", "generate"):  # Their lines are read by programs.
    seconds = time.monotonic() - started
    print(f"{verb}: all is done in {workdir} ({seconds:.0f} s).", flush=True)


class Study:
  """All cells of a config in one folder; every phase skips what is already there."""

  def __init__(self, config: Config, workdir: Path, only: str, command: str):
    self._config, self._workdir, self._command = config, workdir, command
    self._cells = cells(config, only)
    self._runs = runs(config, self._cells, only)
    self._prepared: Prepared | None = None
    self._pretrained: dict[Run, Pretrained] = {}
    self._specialized: dict[Cell, Specialization] = {}

  def run(self) -> None:
    """All phases; a failed job is told at the end, after the report of what there is."""
    self._prepare()
    try:
      self._work(*JOBS)
    finally:
      in_haste = not isinstance(sys.exception(), Exception | None)
      if not in_haste and processes.of_writer(self._has_results):
        self.report()

  def _has_results(self) -> bool:
    return any((self._workdir / "results").glob("*.json"))

  def prepare(self) -> None:
    """All data, and a look at what importance sampling will make of them.

    Raises:
      UserError: a domain cannot be prepared; all others are.
    """
    if failed := self._prepare():
      raise failed[0]
    for run in self._runs:
      if run.domain:
        print(self._method(run).diagnosis)

  def _prepare(self) -> list[UserError]:
    """Makes documents, tokenizer, clusters and stores of generic text and all domains.

    Returns why domains cannot be prepared: their jobs will fail, and stop no others.

    Raises:
      UserError: none can be.
    """
    for name in dict.fromkeys(run.method for run in self._runs):
      if self._config.methods[name].pretrains:
        pretrainer(self._config, self._config.methods[name])  # Tells mistakes before text is read.
    failed = self._make_data()
    data = self._data()
    if failed and len(failed) == len({cell.domain for cell in self._cells}):
      raise failed[0]
    for why in failed:
      print(f"Left out: {why}", flush=True)
    print(f"prepare: {data.train.n_tokens:,} generic tokens in {data.train.n_rows:,} rows.")
    return failed

  def _make_data(self, with_domains: bool = True) -> list[UserError]:
    """Makes what is missing, one run after the other; returns why domains cannot be made."""
    failed = []
    with locked(self._workdir, "prepare"):
      data = self._data()
      for domain in dict.fromkeys(cell.domain for cell in self._cells if with_domains):
        try:
          data.domain(domain)
        except UserError as error:
          failed.append(error)
    return failed

  def pretrain(self) -> None:
    """Each method on generic text."""
    self._work("pretrain")

  def specialize(self) -> None:
    """Each cell on its domain's text."""
    self._work("specialize")

  def evaluate(self, inference: bool = False, to: str = "") -> None:
    """Each cell on held-out text, before and after; or what its exports cost where they run."""
    if not inference:
      self._work("evaluate")
      return
    self._look_for("specialize")
    with locked(self._workdir, "inference"):  # Two at once would measure each other.
      for cell in map(self._cell, self._cells):
        transformer = cell.pretrained.family.transformer
        measure(self._workdir, self._exports(to), cell.cell.name, transformer, cell.domain.test)

  def _exports(self, to: str) -> Path:
    return Path(to).expanduser() if to else self._workdir / "export"

  def report(self) -> None:
    """Table and page of what is there."""
    expected = cells(self._config, check=False)
    with locked(self._workdir, "report"):
      if processes.is_writer():
        page = report.write(
          self._workdir, self._config.name, expected, self._command, self._config.budgets
        )
        print(terminal_table(self._workdir, expected))
        print(f"report: {page}", flush=True)

  def cells(self) -> None:
    """Lists each cell with what is known of it: a line for each, for a shell or a scheduler."""
    for cell in self._cells:
      print(f"{cell.name}\t{self._status(cell)}")

  def export(
    self,
    kind: str = "hf",
    dtype: str = "",
    to: str = "",
    expert: str = "",
    is_checked: bool = True,
  ) -> None:
    """Each cell's model in a format, or one of its pretraining's experts."""
    folder, config, dtype = self._exports(to), self._config, checked_flags(kind, dtype)
    self._look_for("pretrain" if expert else "specialize")
    tokenizer = self._data().tokenizer
    if expert:
      pretrained = dict.fromkeys(run_of(config, cell) for cell in self._cells)
      sources = (of_run(config, self._method(run), expert) for run in pretrained)
    else:
      cells = map(self._cell, self._cells)
      sources = (of_cell(config, self._workdir, cell, self._command) for cell in cells)
    with jax.set_mesh(flat_mesh(config)):
      for source in sources:
        Export(config, folder, source, kind, dtype).result(tokenizer, is_checked)

  def generate(self, **asked: Any) -> None:
    """Text by the model of the one cell that is chosen."""
    if len(self._cells) > 1:
      raise UserError(
        f"{len(self._cells)} cells are chosen, the first two {self._cells[0].name} and"
        f" {self._cells[1].name}: choose one with --only."
      )
    generate.check_flags(**asked)
    self._look_for("specialize")
    generate.answer(generate.of_cell(self._cell(self._cells[0])), **asked)

  def _look_for(self, kind: str) -> None:
    """Raises UserError if a cell was not trained, before any data are prepared for it."""
    for cell in self._cells:
      name = cell.name if kind == "specialize" else run_of(self._config, cell).name
      if not (self._workdir / kind / name / "result.json").exists():
        raise UserError(f"{self._workdir} has no {kind}/{name}: run `{kind}` there first.")

  def _status(self, cell: Cell) -> str:
    names = {kind: f"{kind}/{cell.name}" for kind in JOBS[1:]}
    names["pretrain"] = f"pretrain/{run_of(self._config, cell).name}"
    if teacher := teacher_of(self._config, cell):
      names["teacher"] = f"specialize/{teacher.name}"
    if (self._workdir / "results" / f"{cell.name}.json").exists():
      return "done"
    for name in names.values():
      if complaint(self._workdir, name).exists():
        return f"failed ({complaint(self._workdir, name)})"
    if (self._workdir / "specialize" / cell.name / "result.json").exists():
      return "specialized"
    done = (self._workdir / names["pretrain"] / "result.json").exists()
    return "pretrained" if done else "not there yet"

  def _work(self, *kinds: str) -> None:
    self._make_data(kinds != ("pretrain",) or any(run.domain for run in self._runs))
    jobs: list[Job] = []
    if "pretrain" in kinds:
      jobs += [self._pretraining(run) for run in self._runs]
    if "specialize" in kinds:
      jobs += [self._specializing(cell) for cell in with_teachers(self._config, self._cells)]
    if "evaluate" in kinds:
      jobs += [self._evaluating(cell) for cell in self._cells]
    work(jobs, self._workdir)

  def _pretraining(self, run: Run) -> Job:
    pretrained = self._method(run)
    others = (pretrained.trunk, branch_of(self._config, run))
    needs = tuple(f"pretrain/{other.name}" for other in others if other and other != run)
    return Job(f"pretrain/{run.name}", pretrained.result, needs)

  def _specializing(self, cell: Cell) -> Job:
    needs = [f"pretrain/{run_of(self._config, cell).name}"]
    if teacher := teacher_of(self._config, cell):
      needs.append(f"specialize/{teacher.name}")
    return Job(f"specialize/{cell.name}", self._cell(cell).result, tuple(needs))

  def _evaluating(self, cell: Cell) -> Job:
    test = Evaluation(self._config, self._workdir, self._cell(cell), self._command)
    return Job(f"evaluate/{cell.name}", test.result, (f"specialize/{cell.name}",))

  def _data(self) -> Prepared:
    if self._prepared is None:
      self._prepared = Prepared(self._config, self._workdir)
    return self._prepared

  def _method(self, run: Run) -> Pretrained:
    if run not in self._pretrained:
      branch = branch_of(self._config, run)
      seed = self._method(branch) if branch else None
      self._pretrained[run] = Pretrained(self._config, self._workdir, run, self._data(), seed)
    return self._pretrained[run]

  def _cell(self, cell: Cell) -> Specialization:
    if cell not in self._specialized:
      teacher = teacher_of(self._config, cell)
      self._specialized[cell] = Specialization(
        self._config,
        self._workdir,
        cell,
        self._method(run_of(self._config, cell)),
        self._cell(teacher) if teacher else None,
      )
    return self._specialized[cell]


def describe(config: Config) -> str:
  """Returns the resolved config and, per method, what it will take."""
  lines = [json.dumps(to_dict(config), indent=2), ""]
  readable, length = budgets.readable, config.sequence_length
  for name, row in config.methods.items():
    family, train = make_method(config, row), row.pretrain
    flops = flops_per_step(family, train, length)
    steps = pretraining_steps(config, row, family) if row.pretrains else 0
    tokens = steps * train.batch_rows * length
    large = 0 if row.strategy == "none" else family.parameters()
    small = budgets.parameters(config.sizes[row.size], config.tokenizer.vocab_size)
    before = f", after {row.branch_share:.0%} of {row.branch}" if row.branch else ""
    lines += [
      f"{name}: {readable(large)} parameters at pretraining, {readable(small)} at inference",
      f"  pretraining: {steps:,} steps, {readable(tokens)} tokens, {readable(steps * flops)} FLOPs,"
      f" {tokens / small:.1f} tokens per inference parameter{before}",
      f"  inference: {readable(forward_flops(config, row))} FLOPs per token",
    ]
  return "\n".join(lines)


def _use_compilation_cache(config: Config) -> None:
  if config.compilation_cache:
    folder = Path(config.compilation_cache).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
