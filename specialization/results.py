"""The results of a study: read from its files, averaged over domains and seeds."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from specialization.budgets import BOOKS
from specialization.errors import UserError

_SMALL = 1.05  # times the smallest model: a method may add a few parameters and still be small
Expected = Sequence[tuple[str, str, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """One result: one method on one domain with so much of its text, and one seed."""

  method: str
  domain: str
  domain_tokens: int
  seed: int
  nll: Mapping[tuple[str, str], float]  # nats per token; before | after, domain | generic
  bits: float  # per byte of the domain, after fine-tuning
  cost: Mapping[str, tuple[float, float]]  # FLOPs and device-hours by book of the ledger
  record: Mapping[str, Any]  # all that the file says


class Value(NamedTuple):
  """A number, and its sample standard deviation over seeds where there are several."""

  mean: float
  spread: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One method with one amount of domain text; `common` are the domains that its rivals have."""

  method: str
  domain_tokens: int
  cells: Mapping[str, Mapping[int, Cell]]  # by domain and seed
  common: tuple[str, ...]

  def average(
    self,
    get: Callable[[Cell], float],
    domains: Sequence[str],
    finish: Callable[[float], float] = float,
  ) -> Value | None:
    """Returns finish(mean over domains and seeds of get), or None if a domain is missing."""
    if not domains or any(domain not in self.cells for domain in domains):
      return None
    with np.errstate(invalid="ignore"):
      means = [np.mean([get(cell) for cell in self.cells[d].values()]) for d in domains]
      shared = set.intersection(*(set(self.cells[d]) for d in domains))
      runs = [finish(float(np.mean([get(self.cells[d][s]) for d in domains]))) for s in shared]
      spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else math.nan
      return Value(finish(float(np.mean(means))), spread if math.isfinite(spread) else None)

  def perplexity(
    self, when: str = "after", where: str = "domain", domains: Sequence[str] | None = None
  ) -> Value | None:
    """Returns exp(mean over domains of the NLL per token): the macro average over `common`."""
    domains = self.common if domains is None else domains
    return self.average(lambda cell: cell.nll[when, where], domains, _exp)

  def macro(
    self, when: str = "after", where: str = "domain", domains: Sequence[str] | None = None
  ) -> float:
    """Returns the macro perplexity, or NaN."""
    value = self.perplexity(when, where, domains)
    return math.nan if value is None else value.mean

  def on(self, domain: str) -> float:
    """Returns the perplexity on one domain after fine-tuning, or NaN."""
    return self.macro(domains=(domain,))

  def spent(self, book: str, unit: int) -> float:
    """Returns FLOPs (unit 0) or device-hours (unit 1) of a book, the mean over domains."""
    value = self.average(lambda cell: cell.cost[book][unit], self.common or tuple(self.cells))
    assert value is not None
    return value.mean

  def tasks(self, n: int) -> float:
    """Returns the FLOPs that n tasks cost: generic + n x specialization."""
    return self.spent("generic", 0) + n * self.spent("specialization", 0)

  def parameters(self, phase: str) -> int:
    """Returns the number of parameters at "pretraining" or "inference"."""
    return next(iter(next(iter(self.cells.values())).values())).record["parameters"][phase]


@dataclasses.dataclass(frozen=True)
class Study:
  """What there is, in the config's order of methods and domains."""

  methods: list[str]
  domains: list[str]
  rows: list[Row]  # by domain_tokens, then method
  missing: list[tuple[str, str, int]]
  broken: list[str]  # result files that could not be read, and why

  @property
  def cells(self) -> list[Cell]:
    return [c for row in self.rows for seeds in row.cells.values() for c in seeds.values()]

  @property
  def groups(self) -> dict[int, list[Row]]:
    """The rows by domain_tokens: those that are compared with one another."""
    sizes = dict.fromkeys(row.domain_tokens for row in self.rows)
    return {n: [row for row in self.rows if row.domain_tokens == n] for n in sizes}

  def best_small(self) -> list[Row]:
    """The best row of each group among those of the smallest models."""
    smallest = min(row.parameters("inference") for row in self.rows)
    best = []
    for rows in self.groups.values():
      small = [row for row in rows if row.parameters("inference") <= _SMALL * smallest]
      small = [row for row in small if math.isfinite(row.macro())]
      if len(rows) > 1 and small:
        best.append(min(small, key=lambda row: row.macro()))
    return best


def load(workdir: Path, expected: Expected = ()) -> Study:
  """Reads the results that are there.

  Args:
    workdir: of the study, with results/*.json.
    expected: (method, domain, domain_tokens) of every cell, in the order to show.

  Raises:
    UserError: there are no results at all.
  """
  cells, broken = [], []
  for path in sorted((workdir / "results").glob("*.json")):
    try:
      cells.append(_cell(json.loads(path.read_text())))
    except (KeyError, TypeError, ValueError) as error:
      broken.append(f"{path.name} ({type(error).__name__}: {error})")
  if not cells:
    unread = f", and could not read {', '.join(broken)}" if broken else ""
    raise UserError(
      f"There are no results in {workdir / 'results'}{unread}: let `specialization run` (or"
      " `specialize`) finish at least one cell with this --workdir, then report again."
    )
  found = [(cell.method, cell.domain, cell.domain_tokens) for cell in cells]
  methods, domains, _ = (list(dict.fromkeys(x)) for x in zip(*expected, *found, strict=True))
  rows = []
  for tokens in sorted({key[2] for key in found}):
    table: dict[str, dict[str, dict[int, Cell]]] = {}
    for method, domain in ((m, d) for m in methods for d in domains):
      key = (method, domain, tokens)
      if seeds := {c.seed: c for c, k in zip(cells, found, strict=True) if k == key}:
        table.setdefault(method, {})[domain] = seeds
    common = tuple(d for d in domains if all(d in row for row in table.values()))
    rows += [Row(method, tokens, row, common) for method, row in table.items()]
  missing = [key for key in dict.fromkeys(expected) if key not in found]
  return Study(methods, domains, rows, missing, broken)


def _cell(record: Mapping[str, Any]) -> Cell:
  cost = dict.fromkeys(BOOKS, (0.0, 0.0))
  for entry in record["ledger"]:
    flops, hours = cost[entry["book"]]
    cost[entry["book"]] = (flops + entry["flops"], hours + entry["device_hours"])
  for key in ("parameters", "hardware", "date", "stopped", "curve"):
    record[key]  # a file that lacks what the page shows is reported, not half shown
  after = record["after"]["domain"]
  nll = {
    (when, where): ratio(record[when][where]["nats"], record[when][where]["tokens"])
    for when in ("before", "after")
    for where in ("domain", "generic")
  }
  return Cell(
    method=record["method"],
    domain=record["domain"],
    domain_tokens=record["domain_tokens"],
    seed=record["seed"],
    nll=nll,
    bits=ratio(after["nats"], math.log(2) * after["bytes"]),
    cost=cost,
    record=record,
  )


def ratio(top: int | float, bottom: int | float) -> float:
  """Returns top / bottom, NaN where bottom is 0."""
  return float(top / bottom) if bottom else math.nan


def _exp(value: float) -> float:
  return math.inf if value > 700 else math.exp(value)
