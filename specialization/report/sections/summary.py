"""Macro perplexity of each method by generic budget and domain text, as the paper's main table."""

from specialization.report import figures
from specialization.report.figures import Entry, Item, Name, Section, Table, entry, mark
from specialization.report.results import Row, Study
from specialization.report.tables import budget
from specialization.report.text import count, hours, scientific


def section(study: Study) -> Section | None:
  text = (
    "Macro perplexity over the domains, lower is better. Bold: the lowest; shaded: the lowest of"
    " the smallest models. Before fine-tuning: with the least domain text, by which experts and"
    " resampled text are chosen; generic text by the expert of each document's cluster."
    " Pretraining: of the method itself, without a teacher's."
  )
  return figures.section("Results", text, [_table(study)])


def _table(study: Study) -> Table:
  bodies: list[list[list[Item]]] = []
  for share in study.shares:
    groups = [
      [row for row in study.groups.get((tokens, share), ()) if row.whole] for tokens in study.sizes
    ]
    first = {row.method: row for group in reversed(groups) for row in group}
    lines = {m: [Name(m), *_before(first[m], study)] for m in study.methods if m in first}
    for group in groups:
      marked = mark([(row, row.perplexity()) for row in group], study)
      found = dict(zip((row.method for row in group), marked, strict=True))
      for method, line in lines.items():
        line.append(found[method] if method in found else Entry("–"))
    bodies.append(list(lines.values()))
  sizes = [f"{count(tokens)} tokens" for tokens in study.sizes]
  return Table(
    ["Method", "tokens", "FLOPs", "device-hours", "generic text", "domains", *sizes],
    bodies,
    spans=[("", 1), ("Pretraining", 3), ("Before", 2), ("After, by domain text", len(sizes))],
  )


def _before(row: Row, study: Study) -> list[Item]:
  cost = ["none", "–", "–"]
  if row.kind != "none":
    flops, spent = (row.pretraining(unit) for unit in ("flops", "device_hours"))
    cost = [budget(row, study), scientific(flops), hours(spent)]
  return [*cost, *(entry(row.perplexity("before", where)) for where in ("routed", "domain"))]
