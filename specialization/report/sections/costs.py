"""Perplexity against the cost of N tasks, generic + N x specialization (arXiv 2402.01093)."""

import functools
from collections.abc import Sequence

from specialization.report import figures
from specialization.report.figures import Lines, Section
from specialization.report.results import Row, Study, shared
from specialization.report.text import count, plural, scientific

TASKS = (1, 7, 50)  # whose cost is shown


def section(study: Study) -> Section | None:
  several = len(study.shares) > 1
  text = (
    "Cost of N tasks = generic training + N times specialization (mean per domain), a teacher's"
    " included. Down and left is better. Where a method has several points they are its amounts of"
    f" {'pretraining' if several else 'domain text'}.{_preparation(study)}"
  )
  if not several:
    rows = [row for row in study.rows if row.whole]
    return figures.section("Quality against cost", text, _plots(study, rows, ""))
  parts = []
  for tokens in study.sizes:
    rows = [row for row in study.rows if row.domain_tokens == tokens and row.whole]
    parts += _plots(study, rows, f", {count(tokens)} domain tokens")
  return figures.section("Quality against cost", text, parts)


def _preparation(study: Study) -> str:
  """Returns a sentence on what clusters took, which is left out as in the paper."""
  found = [row.clustering("flops") for row in study.rows]
  generic, special = (max((pair[i] for pair in found), default=0.0) for i in (0, 1))
  if not generic:
    return ""
  return (
    f" Apart from that, methods with clusters need {scientific(generic)} FLOPs for all generic text"
    f" (embeddings and k-means) and {scientific(special)} for a domain's."
  )


def _plots(study: Study, rows: Sequence[Row], name: str) -> list[Lines]:
  """Returns a plot for each number of tasks, with a line per method through the rows."""
  domains = shared(rows)
  methods = dict.fromkeys(row.method for row in rows if row.kind != "none")
  lines = {
    n: [
      figures.path(
        [row for row in rows if row.method == method],
        functools.partial(Row.tasks, n=n),
        lambda row: row.perplexity(domains=domains),
      )
      for method in methods
    ]
    for n in TASKS
  }
  bases = [row for row in rows if row.kind == "none"]
  plots = []
  for n, series in lines.items():
    levels, far = figures.levels(series, bases, domains)
    caption = f"{far} {study.scope(domains)}".strip()
    plots.append(
      Lines(
        f"{plural(n, 'task')}{name}",
        series,
        f"FLOPs for {plural(n, 'task')}",
        "macro perplexity",
        caption,
        levels,
        x_text=scientific,
      )
    )
  return plots
