"""Perplexity against the number of clusters, which is that of experts (arXiv 2402.01093)."""

from collections.abc import Sequence

from specialization.report import figures
from specialization.report.figures import Line, Lines, Section
from specialization.report.results import Row, Study, Value, shared
from specialization.report.text import count, percent

_ALIKE = ("family", "strategy", "objective", "size")


def section(study: Study) -> Section | None:
  share = study.shares[-1]
  more = f" All at {percent(share)} of pretraining." if len(study.shares) > 1 else ""
  text = (
    "A line joins methods that differ in the number of clusters and what goes with it: experts of a"
    f" mixture, experts and rank of a projected network, cells of importance sampling.{more}"
  )
  parts = [_plot(study, tokens, study.groups.get((tokens, share), [])) for tokens in study.sizes]
  return figures.section("Numbers of clusters", text, parts)


def families(rows: Sequence[Row]) -> list[list[Row]]:
  """Returns the rows that differ in their number of clusters, ascending."""
  found: dict[tuple[str, ...], dict[int, Row]] = {}
  for row in rows:
    key = (*(row.record[name] for name in _ALIKE), row.record["expert"]["choice"])
    found.setdefault(key, {}).setdefault(row.record["clusters"], row)
  return [[alike[k] for k in sorted(alike)] for alike in found.values() if len(alike) > 1]


def _plot(study: Study, tokens: int, rows: Sequence[Row]) -> Lines | None:
  joined = families(rows)
  if not joined:
    return None
  plain = [row for row in rows if row.kind == "plain" and row.method in study.small]
  domains = shared([*plain, *(row for alike in joined for row in alike)])

  def clusters(row: Row) -> float:
    return float(row.record["clusters"])

  def perplexity(row: Row) -> Value | None:
    return row.perplexity(domains=domains)

  series: list[Line] = []
  for alike in joined:
    points = [figures.path([row], clusters, perplexity) for row in alike]
    line = figures.path(alike, clusters, perplexity)
    label = " to ".join(alike[i].method for i in (0, -1))
    series += [Line(line.method, line.x, line.y, markers=False, label=label), *points]
  levels, far = figures.levels(series, plain, domains)
  return Lines(
    f"{count(tokens)} domain tokens",
    series,
    "clusters",
    "macro perplexity",
    f"{far} {study.scope(domains)}".strip(),
    levels,
  )
