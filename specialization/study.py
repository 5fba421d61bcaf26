"""A study is a list of cells and the pretraining runs that they share: bookkeeping, no JAX."""

import dataclasses
import fnmatch
import json
from pathlib import Path
from typing import Any

from specialization import artifact, budgets
from specialization.config import Config
from specialization.errors import UserError
from specialization.strict import to_dict

# Fields of a method that pretraining does not see.
_LATER = ("objective", "teacher", "choose", "fine_tuning_rate")


@dataclasses.dataclass(frozen=True)
class Cell:
  """One specialization.

  Attributes:
    method: that is pretrained and fine-tuned.
    domain: on whose text.
    domain_tokens: of its training text that may be used.
    share: of the pretraining horizon.
    seed: of initialization and data order.
  """

  method: str
  domain: str
  domain_tokens: int
  share: float
  seed: int

  @property
  def name(self) -> str:
    return f"{self.method}--{self.domain}--{self.domain_tokens}--{_tail(self.share, self.seed)}"


@dataclasses.dataclass(frozen=True)
class Run:
  """One pretraining, named after one of the methods that have it.

  Attributes:
    domain, domain_tokens: whose histogram the text follows; "" and 0 where it is generic.
  """

  method: str
  domain: str
  domain_tokens: int
  share: float
  seed: int

  @property
  def name(self) -> str:
    domain = f"{self.domain}--{self.domain_tokens}--" if self.domain else ""
    return f"{self.method}--{domain}{_tail(self.share, self.seed)}"


def _tail(share: float, seed: int) -> str:
  return f"b{round(100 * share)}--s{seed}"


def cells(config: Config, only: str = "*", check: bool = True) -> list[Cell]:
  """Returns the wanted cells whose name, or whose method's, matches a pattern, methods first.

  Raises:
    UserError: none does, or to be checked one is beyond the budgets of inference or domain data.
  """
  study, shares = config.study, sorted(config.study.shares, reverse=True)
  every = [
    Cell(method, domain, tokens, share, seed)
    for method, row in config.methods.items()
    for seed in study.seeds
    for share in (shares if row.pretrains else shares[:1])
    for tokens in config.specialize.domain_tokens
    for domain in config.data.domains
  ]
  wanted = [c for c in every if any(_matches(c, pattern) for pattern in study.cells)]
  if every and not wanted:
    raise UserError(f"study.cells={study.cells} matches no cell, such as {every[0].name!r}.")
  chosen = [cell for cell in wanted if _matches(cell, only)]
  if wanted and not chosen:
    raise UserError(f"--only={only!r} matches no cell, such as {wanted[0].name!r}.")
  for cell in chosen if check else ():
    _check_budgets(config, cell)
  return chosen


def _matches(cell: Cell, pattern: str) -> bool:
  return fnmatch.fnmatch(cell.name, pattern) or fnmatch.fnmatch(cell.method, pattern)


def _check_budgets(config: Config, cell: Cell) -> None:
  limits, size = config.budgets, config.methods[cell.method].size
  deployed = budgets.parameters(config.sizes[size], config.tokenizer.vocab_size)
  if limits.inference_parameters and deployed > limits.inference_parameters:
    raise UserError(
      f"{cell.method} deploys a model of {deployed:,} parameters, more than"
      f" budgets.inference_parameters={limits.inference_parameters:,}: choose a smaller size, or"
      " leave it out with study.cells."
    )
  if limits.domain_tokens and cell.domain_tokens > limits.domain_tokens:
    raise UserError(
      f"{cell.name} uses more than budgets.domain_tokens={limits.domain_tokens:,}: lower"
      " specialize.domain_tokens."
    )


def methods(config: Config, only: str = "*") -> list[str]:
  """Returns the methods of the chosen cells, or those that match when there are no domains."""
  if config.data.domains:
    return list(dict.fromkeys(cell.method for cell in cells(config, only)))
  chosen = [name for name in config.methods if fnmatch.fnmatch(name, only)]
  if not chosen:
    raise UserError(f"--only={only!r} matches none of the methods {', '.join(config.methods)}.")
  return chosen


def run_of(config: Config, cell: Cell) -> Run:
  """Returns the pretraining that a cell begins from."""
  tokens = 0
  if config.methods[cell.method].strategy == "importance":
    tokens = min(config.importance.tokens or cell.domain_tokens, cell.domain_tokens)
  domain = cell.domain if tokens else ""
  return Run(_owner(config, cell.method), domain, tokens, cell.share, cell.seed)


def _owner(config: Config, method: str) -> str:
  """Returns the one with the shortest name of the methods that are pretrained alike."""
  limits = config.budgets
  # A teacher takes of its student's generic budget, so that students are pretrained by themselves.
  bound = ("teacher",) if limits.generic_flops or limits.generic_device_hours else ()

  def pretraining(name: str) -> dict[str, Any]:
    fields = to_dict(config.methods[name])
    return {k: v for k, v in fields.items() if k not in _LATER or k in bound}

  alike = [name for name in config.methods if pretraining(name) == pretraining(method)]
  return min(alike, key=lambda name: (len(name), name))


def runs(config: Config, chosen: list[Cell], only: str) -> list[Run]:
  """Returns the pretrainings of some cells, of their teachers and of what they branch from.

  The longest of each method comes first.
  """
  if not config.data.domains:  # Pretraining alone, of what does not look at a domain.
    study, names = config.study, methods(config, only)
    found = [
      Run(_owner(config, name), "", 0, share, seed)
      for name in names
      for seed in study.seeds
      for share in study.shares
    ]
  else:
    found = [run_of(config, cell) for cell in with_teachers(config, chosen)]
  found += [branch for run in found if (branch := branch_of(config, run))]
  order = list(config.methods)
  return sorted(dict.fromkeys(found), key=lambda run: (order.index(run.method), -run.share))


def branch_of(config: Config, run: Run) -> Run | None:
  """Returns the pretraining whose parameters a pretraining begins from."""
  row = config.methods[run.method]
  return Run(_owner(config, row.branch), "", 0, row.branch_share, run.seed) if row.branch else None


def teacher_of(config: Config, cell: Cell) -> Cell | None:
  """Returns the cell whose fine-tuned model teaches this one's."""
  teacher = config.methods[cell.method].teacher
  return dataclasses.replace(cell, method=teacher) if teacher else None


def with_teachers(config: Config, chosen: list[Cell]) -> list[Cell]:
  """Returns some cells, each after its teacher."""
  found = [c for cell in chosen for c in (teacher_of(config, cell), cell) if c is not None]
  return list(dict.fromkeys(found))


def read_result(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
  """Returns the result at a path, or None if there is none yet.

  Raises:
    UserError: it was made from something else.
  """
  if not path.exists():
    return None
  result = json.loads(path.read_text())
  wanted = artifact.fingerprint(made_from)
  if result["hash"] != wanted:
    raise UserError(
      f"{path} ({result['hash']}) was made by another configuration than this one ({wanted}):"
      " choose another --workdir, restore the old values, or delete that file."
    )
  return result


def write_result(path: Path, made_from: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
  """Writes a result in one step and returns it."""
  result = {"hash": artifact.fingerprint(made_from)} | result
  artifact.write_text(path, json.dumps(result, indent=1))
  return result
