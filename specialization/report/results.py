"""The results of a study: read from its files, averaged over domains and seeds."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from specialization import study
from specialization.budgets import BOOKS, Entry
from specialization.config import BudgetsConfig
from specialization.errors import UserError

_SMALL = 1.05  # times the smallest model: a method may add a few parameters and still be small
_TEACHER = "teacher: "  # begins the phases of what a teacher cost
_CLUSTERING = ("embedder", "embeddings/", "clusters")  # begin the phases that make clusters
# What the page shows beside the scores: a file that lacks it is reported, not half shown.
_SHOWN = (
  *("family", "strategy", "clusters", "objective", "size", "learning_rates", "pretraining"),
  *("expert", "histograms", "importance", "parameters", "stopped", "curve", "used_tokens"),
  *("hardware", "date"),
)
# Before and after fine-tuning; routed: generic text by the expert of each document's cluster;
# rolling: the domain's in lm-eval's windows.
_SCORES = (
  *(("before", where) for where in ("domain", "generic", "routed")),
  *(("after", where) for where in ("domain", "generic", "rolling")),
)
Expected = Sequence[study.Cell]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """One result."""

  of: study.Cell
  nll: Mapping[tuple[str, str], float]  # nats per token, by _SCORES
  bits: float  # per byte of the domain, after fine-tuning
  ledger: Sequence[Entry]
  record: Mapping[str, Any]  # all that the file says

  def entries(self, books: Sequence[str], phase: str = "", teacher: bool = True) -> list[Entry]:
    """Returns the entries of some books.

    Args:
      books: of the ledger.
      phase: how the phases begin that count; "": all.
      teacher: whether what a teacher cost counts.
    """
    return [
      entry
      for entry in self.ledger
      if entry.book in books
      and entry.phase.startswith(phase)
      and (teacher or not entry.phase.startswith(_TEACHER))
    ]

  def spent(self, unit: str, books: Sequence[str], phase: str = "", teacher: bool = True) -> float:
    """Returns the tokens, flops or device_hours of `entries`."""
    return math.fsum(getattr(entry, unit) for entry in self.entries(books, phase, teacher))


class Value(NamedTuple):
  """A number, and its sample standard deviation over seeds where there are several."""

  mean: float
  spread: float | None


def over_seeds(runs: Sequence[float], mean: float | None = None) -> Value:
  """Returns the value of one number per seed; its mean may be known better from more runs."""
  with np.errstate(invalid="ignore"):
    spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else math.nan
    center = float(np.mean(runs)) if mean is None else mean
  return Value(center, spread if math.isfinite(spread) else None)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One method with one amount of domain text and one share of the pretraining horizon.

  `common` are the domains that all rows with as much domain text have, whatever their share. A
  method that the study wants on some of its domains alone does not count, and is compared on those.
  """

  method: str
  domain_tokens: int
  share: float
  cells: Mapping[str, Mapping[int, Cell]]  # by domain and seed
  common: tuple[str, ...]

  @property
  def whole(self) -> bool:
    """Whether it has all the domains that are compared."""
    return set(self.common) <= set(self.cells)

  @property
  def _own(self) -> tuple[str, ...]:
    """The domains that are compared, or those it has where it lacks some."""
    return self.common if self.common and self.whole else tuple(self.cells)

  @property
  def record(self) -> Mapping[str, Any]:
    """What the file of the first cell says, for what all cells of a method have in common."""
    return next(iter(next(iter(self.cells.values())).values())).record

  @property
  def kind(self) -> str:
    """Which idea of the paper it is: none, distilled, importance, plain, or its family."""
    record = self.record
    if record["strategy"] == "none":
      return "none"
    if record["objective"] == "distillation":
      return "distilled"
    if record["strategy"] == "importance":
      return "importance"
    return "plain" if record["family"] == "dense" else str(record["family"])

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
      return over_seeds(runs, finish(float(np.mean(means))))

  def perplexity(
    self, when: str = "after", where: str = "domain", domains: Sequence[str] | None = None
  ) -> Value | None:
    """Returns exp(mean over domains of the NLL per token): the macro average over `common`.

    Before its training a method without pretraining has none.
    """
    if when == "before" and self.kind == "none":
      return None
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

  def spent(
    self, unit: str, *books: str, phase: str = "", teacher: bool = True, over: Sequence[str] = ()
  ) -> float:
    """Returns what `Cell.spent` does, the mean over domains."""
    get = lambda cell: cell.spent(unit, books or BOOKS, phase, teacher)  # noqa: E731
    value = self.average(get, over or self._own)
    assert value is not None
    return value.mean

  def pretraining(self, unit: str) -> float:
    """Returns what its own pretraining took, whether all domains share it or each has its own."""
    return self.spent(unit, phase="pretrain")

  def clustering(self, unit: str) -> tuple[float, float]:
    """Returns what its clusters took: for all generic text, and the mean for a domain's."""
    if int(self.record["clusters"]) == 1:
      return 0.0, 0.0

    def spent(cell: Cell, own: bool) -> float:
      entries = [e for e in cell.entries(("data",)) if e.phase.startswith(_CLUSTERING)]
      its = [e for e in entries if e.phase.endswith(f"/{cell.of.domain}") == own]
      return math.fsum(getattr(entry, unit) for entry in its)

    generic = self.average(lambda cell: spent(cell, False), self._own)
    special = self.average(lambda cell: spent(cell, True), self._own)
    assert generic is not None
    assert special is not None
    return generic.mean, special.mean

  def tasks(self, n: int | float, unit: str = "flops", teacher: bool = True) -> float:
    """Returns what n tasks cost: generic + n x specialization."""
    generic, special = (self.spent(unit, b, teacher=teacher) for b in ("generic", "specialization"))
    return generic + n * special

  def validation(self) -> Value:
    """Returns the macro average of the lowest validation perplexities in fine-tuning."""
    value = self.average(
      lambda cell: min(loss for _, loss in cell.record["curve"]), self._own, _exp
    )
    assert value is not None
    return value

  def parameters(self, phase: str) -> int:
    """Returns the number of parameters at "pretraining" or "inference"."""
    return int(self.record["parameters"][phase])


def shared(rows: Sequence[Row]) -> tuple[str, ...]:
  """Returns the domains that all of some rows have."""
  return tuple(d for d in (rows[0].cells if rows else ()) if all(d in row.cells for row in rows))


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
  """What there is, in the config's order of methods and domains.

  A method without pretraining has a row at every share, since it is a baseline for all of them.
  """

  workdir: Path
  methods: list[str]
  domains: list[str]
  cells: list[Cell]
  rows: list[Row]  # by domain_tokens, share, then method
  missing: list[study.Cell]
  broken: list[str]  # result files that could not be read, and why
  failed: list[str]  # jobs, and why
  limits: BudgetsConfig | None = None  # where there are any

  @functools.cached_property
  def groups(self) -> dict[tuple[int, float], list[Row]]:
    """The rows by domain_tokens and share: those that are compared with one another."""
    found: dict[tuple[int, float], list[Row]] = {}
    for row in self.rows:
      found.setdefault((row.domain_tokens, row.share), []).append(row)
    return found

  @property
  def sizes(self) -> list[int]:
    """Amounts of domain text, ascending."""
    return sorted({row.domain_tokens for row in self.rows})

  @property
  def shares(self) -> list[float]:
    """Shares of the pretraining horizon, ascending."""
    return sorted({row.share for row in self.rows})

  @functools.cached_property
  def small(self) -> list[str]:
    """The methods with the smallest models."""
    size = {row.method: row.parameters("inference") for row in self.rows}
    return [m for m in self.methods if m in size and size[m] <= _SMALL * min(size.values())]

  @functools.cached_property
  def kinds(self) -> dict[str, str]:
    """The kind of each method that has rows; "large": plain, with more than the smallest model."""
    kinds = {row.method: row.kind for row in self.rows}
    large = [m for m, kind in kinds.items() if kind == "plain" and m not in self.small]
    return kinds | dict.fromkeys(large, "large")

  def at(self, tokens: int, share: float, *kinds: str, small: bool = True) -> list[Row]:
    """Returns a group's rows with the smallest models (or the others), of some kinds or all."""
    return [
      row
      for row in self.groups.get((tokens, share), ())
      if (row.method in self.small) == small and (not kinds or row.kind in kinds)
    ]

  def through(self, method: str, tokens: int) -> list[Row]:
    """Returns a method's rows with one amount of domain text, by ascending share."""
    return [r for r in self.rows if (r.method, r.domain_tokens) == (method, tokens)]

  @functools.cached_property
  def best_small(self) -> list[Row]:
    """The best row of each group with several pretrained ones, of the smallest models."""
    several = [key for key, rows in self.groups.items() if sum(r.kind != "none" for r in rows) > 1]
    best = (lowest(self.at(*key)) for key in several)
    return [row for row in best if row is not None]

  def scope(self, domains: Sequence[str]) -> str:
    """Returns a sentence if some domains are not all of the study's."""
    few = f"Over {len(domains)} of {len(self.domains)} domains: {', '.join(domains)}."
    return few if len(domains) < len(self.domains) else ""


def lowest(rows: Sequence[Row], domains: Sequence[str] | None = None) -> Row | None:
  """Returns the row with the lowest macro perplexity, None if none is finite."""
  finite = [row for row in rows if math.isfinite(row.macro(domains=domains))]
  return min(finite, key=lambda row: row.macro(domains=domains), default=None)


def load(workdir: Path, expected: Expected = (), limits: BudgetsConfig | None = None) -> Study:
  """Reads the results that are there.

  Args:
    workdir: of the study, with results/*.json and failed/*.txt.
    expected: every cell, in the order to show.
    limits: the budgets that were set.

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
  found = {cell.of: cell for cell in cells}
  every = [*expected, *found]
  methods, domains = ([*dict.fromkeys(getattr(c, k) for c in every)] for k in ("method", "domain"))
  missing = [cell for cell in dict.fromkeys(expected) if cell not in found]
  rows = _rows(cells, methods, domains, _partial(expected))
  binding = limits if limits and any(dataclasses.astuple(limits)) else None
  failed = _failed(workdir)
  return Study(workdir, methods, domains, cells, rows, missing, broken, failed, binding)


def _partial(expected: Expected) -> set[tuple[str, int]]:
  """Returns methods and amounts of text that are wanted on some of the study's domains alone."""
  wanted: dict[tuple[str, int], set[str]] = {}
  for cell in expected:
    wanted.setdefault((cell.method, cell.domain_tokens), set()).add(cell.domain)
  most = max(map(len, wanted.values()), default=0)
  return {key for key, domains in wanted.items() if len(domains) < most}


def _rows(
  cells: Sequence[Cell],
  methods: Sequence[str],
  domains: Sequence[str],
  partial: set[tuple[str, int]],
) -> list[Row]:
  shares: dict[int, set[float]] = {}  # that some method was pretrained for, by domain tokens
  for cell in cells:
    if cell.record["strategy"] != "none":
      shares.setdefault(cell.of.domain_tokens, set()).add(cell.of.share)
  groups: dict[tuple[int, float], dict[str, dict[str, dict[int, Cell]]]] = {}

  def order(cell: Cell) -> tuple[int, int, int]:
    return methods.index(cell.of.method), domains.index(cell.of.domain), cell.of.seed

  for cell in sorted(cells, key=order):
    own = {cell.of.share}
    is_bare = cell.record["strategy"] == "none"
    for share in shares.get(cell.of.domain_tokens, own) if is_bare else own:
      group = groups.setdefault((cell.of.domain_tokens, share), {})
      group.setdefault(cell.of.method, {}).setdefault(cell.of.domain, {})[cell.of.seed] = cell
  rows = []
  for (tokens, share), group in sorted(groups.items()):
    rivals = [
      row
      for (n, _), other in groups.items()
      for method, row in other.items()
      if n == tokens and (method, n) not in partial
    ]
    common = tuple(d for d in domains if all(d in row for row in rivals))
    rows += [Row(method, tokens, share, row, common) for method, row in group.items()]
  return rows


def _cell(record: Mapping[str, Any]) -> Cell:
  for key in _SHOWN:
    record[key]
  after = record["after"]["domain"]
  nll = {
    (when, where): ratio(record[when][where]["nats"], record[when][where]["tokens"])
    for when, where in _SCORES
  }
  return Cell(
    of=study.Cell(**{f.name: record[f.name] for f in dataclasses.fields(study.Cell)}),
    nll=nll,
    bits=ratio(after["nats"], math.log(2) * after["bytes"]),
    ledger=[Entry(**entry) for entry in record["ledger"]],
    record=record,
  )


def _failed(workdir: Path) -> list[str]:
  found = []
  for path in sorted((workdir / "failed").glob("*.txt")):
    why = path.read_text().partition("\n")[0].rstrip(".")
    found.append(f"{path.stem.replace('--', '/', 1)} ({why})")
  return found


def ratio(top: int | float, bottom: int | float) -> float:
  """Returns top / bottom, NaN where bottom is 0."""
  return float(top / bottom) if bottom else math.nan


def _exp(value: float) -> float:
  return math.inf if value > 700 else math.exp(value)
