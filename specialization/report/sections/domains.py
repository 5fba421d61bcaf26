"""What each domain gets from each method, and what fine-tuning costs on generic text."""

import math
from collections.abc import Mapping, Sequence

from specialization.report import figures
from specialization.report.compare import gain, plain
from specialization.report.figures import Dot, Dots, Lines, Section
from specialization.report.results import Row, Study, shared
from specialization.report.text import count, percent


def section(study: Study) -> Section | None:
  share = study.shares[-1]
  more = f" All at {percent(share)} of pretraining." if len(study.shares) > 1 else ""
  text = (
    "Hollow: before fine-tuning; filled: after. Whiskers: deviation over seeds. The gain is in nats"
    f" per token over the plain small model, right is better.{more}"
  )
  # What was never pretrained is far off in all plots but one.
  groups = {n: study.groups.get((n, share), []) for n in study.sizes}
  groups = {n: [row for row in rows if row.kind != "none"] for n, rows in groups.items()}
  scores = [_scores(study, tokens, rows) for tokens, rows in groups.items()]
  gains = [_gains(study, tokens, rows) for tokens, rows in groups.items()]
  parts = [*scores, *gains, _amounts(study), _forgetting(study, groups)]
  return figures.section("Domains", text, parts)


def _dot(row: Row, where: str, domains: Sequence[str]) -> Dot | None:
  before = row.perplexity("before", where, domains)
  after = row.perplexity("after", where, domains)
  return after and Dot(before.mean if before else math.nan, *after)


def _scores(study: Study, tokens: int, rows: Sequence[Row]) -> Dots:
  series = {row.method: [_dot(row, "domain", (d,)) for d in study.domains] for row in rows}
  return Dots(f"Domains, {count(tokens)} domain tokens", study.domains, series, "perplexity")


def _gains(study: Study, tokens: int, rows: Sequence[Row]) -> Dots | None:
  name = plain(study)
  base = next((row for row in rows if row.method == name), None)
  if base is None:
    return None
  series: dict[str, list[Dot | None]] = {}
  for row in rows:
    if row is not base:
      found = [gain(row, base, (domain,)) for domain in study.domains]
      series[row.method] = [value and Dot(math.nan, *value) for value in found]
  title = f"Gain over {base.method}, {count(tokens)} domain tokens"
  return Dots(title, study.domains, series, "nats per token", zero=True)


def _amounts(study: Study) -> Lines | None:
  """Returns the plot of perplexity against the amount of domain text."""
  if len(study.sizes) < 2:
    return None
  rows = [row for row in study.rows if row.share == study.shares[-1] and row.whole]
  several = {row.method for row in rows if row.domain_tokens != rows[0].domain_tokens}
  rows = [row for row in rows if row.method in several]
  domains = shared(rows)
  lines = [
    figures.path(
      [row for row in rows if row.method == method],
      lambda row: float(row.domain_tokens),
      lambda row: row.perplexity(domains=domains),
    )
    for method in dict.fromkeys(row.method for row in rows)
  ]
  bare = {row.method for row in rows if row.kind == "none"}
  near = [line for line in lines if line.method not in bare]
  _, far = figures.levels(near, [row for row in rows if row.method in bare][:1], domains)
  return Lines(
    "More domain text",
    lines,
    "domain tokens",
    "macro perplexity",
    f"{far} {study.scope(domains)}".strip(),
    y_most=figures.room(near),
  )


def _forgetting(study: Study, groups: Mapping[int, Sequence[Row]]) -> Dots:
  bands = [f"{count(tokens)} tokens" for tokens in groups]
  series: dict[str, list[Dot | None]] = {}
  for method in study.methods:
    rows = [next((r for r in group if r.method == method), None) for group in groups.values()]
    series[method] = [_dot(row, "generic", row.common) if row else None for row in rows]
  return Dots("Forgetting: generic text", bands, series, "perplexity on generic text")
