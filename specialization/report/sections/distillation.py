"""Distillation at the student's cost, and at that of student and teacher (arXiv 2402.01093)."""

import functools

from specialization.report import figures
from specialization.report.figures import Item, Lines, Name, Section, Table, entry
from specialization.report.results import Row, Study, shared
from specialization.report.text import count, percent, scientific


def section(study: Study) -> Section | None:
  if not any(row.kind == "distilled" for row in study.rows):
    return None
  text = (
    "Cost of one task. The student's: all but the entries of the ledger that its teacher caused."
    " In total: with the teacher's pretraining, its fine-tuning and its passes."
  )
  pairs = [plots for tokens in study.sizes if (plots := _plots(study, tokens))]
  plots = [plot for kind in zip(*pairs, strict=True) for plot in kind]
  return figures.section("Distillation", text, [*plots, _table(study)])


def _plots(study: Study, tokens: int) -> list[Lines]:
  rows = [row for row in study.rows if row.domain_tokens == tokens and row.whole]
  if not any(row.kind == "distilled" for row in rows):
    return []
  domains = shared(rows)
  methods = dict.fromkeys(row.method for row in rows if row.kind != "none")
  series = {
    teacher: [
      figures.path(
        study.through(method, tokens),
        functools.partial(Row.tasks, n=1, teacher=teacher),
        lambda row: row.perplexity(domains=domains),
      )
      for method in methods
    ]
    for teacher in (False, True)
  }
  limits = figures.limits([line for lines in series.values() for line in lines])
  return [
    Lines(
      f"{'Total' if teacher else 'Student'} cost, {count(tokens)} domain tokens",
      lines,
      f"FLOPs for 1 task, {'teacher included' if teacher else 'without the teacher'}",
      "macro perplexity",
      study.scope(domains),
      x_text=scientific,
      x_limits=limits,
    )
    for teacher, lines in series.items()
  ]


def _table(study: Study) -> Table:
  bodies: list[list[list[Item]]] = []
  for rows in study.groups.values():
    if any(row.kind == "distilled" for row in rows):
      bodies.append([_line(row) for row in rows if row.kind in ("distilled", "plain")])
  return Table(
    ["Method", "Domain tokens", "Pretraining", "Macro perplexity", "student", "total", "share"],
    bodies,
    spans=[("", 4), ("FLOPs for 1 task", 2), ("Teacher's", 1)],
  )


def _line(row: Row) -> list[Item]:
  student, total = row.tasks(1, teacher=False), row.tasks(1)
  share = percent(1 - student / total) if total > student else "–"
  return [
    *(Name(row.method), count(row.domain_tokens), percent(row.share), entry(row.perplexity())),
    *(scientific(student), scientific(total), share),
  ]
