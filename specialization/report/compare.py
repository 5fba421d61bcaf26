"""Comparisons of rows: gains over a rival, whether that is chance, what is worth its cost."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from specialization.report.results import Row, Study, Value, over_seeds, shared

_CLEAR = 2.0  # standard deviations over seeds
_WORTH = 0.01  # nats per token that a higher cost must bring
ALIKE = 1.05  # times a cost: as good as equal, since fine-tuning stops a little early or late
HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "too close to call"


def seeds_of(*rows: Row, domains: Sequence[str]) -> list[int]:
  """Returns the seeds that all of some rows have on all of some domains."""
  return sorted(set.intersection(*(set(r.cells[d]) for d in domains for r in rows)))


def gains(
  row: Row, rival: Row, domains: Sequence[str] = (), rival_when: str = "after"
) -> dict[int, float]:
  """Returns by how many nats per token a row is better than its rival, for each seed of both.

  Args:
    row, rival: what is compared, after fine-tuning.
    domains: over which the average goes; none: those that both have.
    rival_when: after, or before its fine-tuning.
  """
  domains = domains or shared([row, rival])
  if not domains or any(d not in r.cells for d in domains for r in (row, rival)):
    return {}
  found = {}
  for seed in seeds_of(row, rival, domains=domains):
    mine = [row.cells[d][seed].nll["after", "domain"] for d in domains]
    its = [rival.cells[d][seed].nll[rival_when, "domain"] for d in domains]
    if all(map(math.isfinite, (*mine, *its))):
      found[seed] = float(np.mean(its)) - float(np.mean(mine))
  return found


def gain(
  row: Row, rival: Row, domains: Sequence[str] = (), rival_when: str = "after"
) -> Value | None:
  """Returns the mean of `gains` and its deviation over seeds, None if there is none."""
  found = gains(row, rival, domains, rival_when)
  return over_seeds(list(found.values())) if found else None


def perplexities(row: Row, rival: Row) -> tuple[float, float]:
  """Returns both macro perplexities over the domains and seeds of `gain`."""
  domains = shared([row, rival])
  seeds = seeds_of(row, rival, domains=domains)
  cells = [{d: {s: r.cells[d][s] for s in seeds} for d in domains} for r in (row, rival)]
  mine, its = (
    dataclasses.replace(r, cells=part).macro(domains=domains)
    for r, part in zip((row, rival), cells, strict=True)
  )
  return mine, its


@functools.lru_cache(maxsize=8)
def noise(study: Study) -> float:
  """Returns the deviation over seeds of a small method's gain over the plain one, in nats.

  Pooled over all that have several seeds, since each has too few to tell; none: half of 0.01.
  """
  name, spreads = plain(study), list[float]()
  for rows in study.groups.values():
    rival = next((row for row in rows if row.method == name), None)
    mine = [r for r in rows if rival and r is not rival and r.method in study.small]
    found = [gain(row, rival) for row in mine if rival and row.kind != "none"]
    spreads += [value.spread for value in found if value and value.spread is not None]
  return float(np.sqrt(np.mean(np.square(spreads)))) if spreads else _WORTH / _CLEAR


def verdict(values: Sequence[Value], deviation: float) -> str:
  """Returns whether all of some numbers are positive, and by more than chance.

  Args:
    values: what is judged.
    deviation: between seeds, at least: a number counts if it is more than twice that.
  """
  chance = [_CLEAR * max(v.spread or 0.0, deviation) for v in values]
  clear = [abs(v.mean) > most for v, most in zip(values, chance, strict=True)]
  signs = [math.copysign(c, v.mean) for c, v in zip(clear, values, strict=True)]
  said = FAILS if min(signs) < 0 else HOLDS if min(signs) > 0 else UNCLEAR
  return said + " (one seed)" * any(value.spread is None for value in values)


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
  """Returns Spearman's rank correlation, NaN where one side is constant."""

  def ranks(values: Sequence[float]) -> np.ndarray:
    ordered = sorted(values)  # equal values share their mean rank
    return np.array([ordered.index(v) + ordered.count(v) / 2 - len(values) / 2 for v in values])

  a, b = ranks(x), ranks(y)
  norm = math.sqrt(float(a @ a) * float(b @ b))
  return float(a @ b) / norm if norm else math.nan


def front(
  rows: Iterable[Row], cost: Callable[[Row], float], domains: Sequence[str]
) -> list[tuple[Row, float]]:
  """Returns the rows that are better than all cheaper ones, by ascending cost, with their costs.

  What is better by less than 0.01 nats per token is not worth a higher cost; costs that differ by
  less than 5% count as equal.
  """
  found: list[tuple[Row, float]] = []
  best = math.inf
  priced = [(cost(row), row.macro(domains=domains), row) for row in rows]
  for price, perplexity, row in sorted(priced, key=lambda item: item[:2]):
    if math.isfinite(perplexity) and math.log(perplexity) < best - _WORTH:
      cheaper = found[:-1] if found and price <= ALIKE * found[-1][1] else found
      found, best = [*cheaper, (row, price)], math.log(perplexity)
  return found


def affordable(rows: Iterable[Row], most: float, n: int) -> list[Row]:
  """Returns the rows whose n tasks cost no more FLOPs; 5% above count as equal."""
  return [row for row in rows if row.tasks(n) <= ALIKE * most]


def crossing(few: Row, many: Row, unit: str = "flops") -> int | None:
  """Returns from how many tasks on `few` costs more than `many`, None if it never does."""
  generic = many.spent(unit, "generic") - few.spent(unit, "generic")
  each = few.spent(unit, "specialization") - many.spent(unit, "specialization")
  if each <= 0:
    return None
  return max(1, math.floor(generic / each) + 1)


def plain(study: Study) -> str | None:
  """Returns the plain small model: dense, on generic text, without a teacher."""
  return champion(study, "plain")


def champion(study: Study, kind: str) -> str | None:
  """Returns the small method that stands for a kind: the best by validation text.

  Those come first that the study has with the most amounts of domain text and of pretraining, and
  then the least domain text and the longest pretraining count.
  """
  found: dict[str, list[Row]] = {}
  for row in study.rows:
    if row.method in study.small and row.kind == kind and row.whole:
      found.setdefault(row.method, []).append(row)

  def order(method: str) -> tuple[int, float]:
    rows = found[method]
    longest = max(rows, key=lambda row: (-row.domain_tokens, row.share))
    return -len(rows), longest.validation().mean

  return min(found, key=order, default=None)


def chosen(rows: Iterable[Row]) -> Row | None:
  """Returns the row that validation text chooses, None if none has all the domains."""
  whole = [row for row in rows if row.whole and math.isfinite(row.macro())]
  return min(whole, key=lambda row: row.validation().mean, default=None)
