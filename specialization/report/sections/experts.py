"""Rules that choose a domain's expert from one pretraining (arXiv 2402.01093)."""

from collections.abc import Sequence

from specialization.report import figures
from specialization.report.figures import Item, Name, Section, Table, entry, mark
from specialization.report.results import Row, Study, shared
from specialization.report.text import count, number, percent, scientific

_RULES = {
  "most_frequent": "most frequent cluster",
  "lowest_loss": "lowest loss",
  "histogram": "mixture by histogram",
  "all": "best after fine-tuning",
}


def section(study: Study) -> Section | None:
  text = (
    "One pretraining, several ways to choose the expert. The cost of a domain includes the choice;"
    " in cluster: the share of the domain's text that lies in the chosen one, the mean over"
    " domains."
  )
  bodies = [body for rows in study.groups.values() for body in _bodies(study, rows)]
  table = Table(
    [
      *("Method", "Choice", "Domain tokens", "Pretraining", "In cluster"),
      *("before", "after", "FLOPs", "times the least", "domains"),
    ],
    bodies,
    spans=[("", 5), ("Macro perplexity", 2), ("Cost of a domain", 2), ("Over", 1)],
    prose=(1,),
  )
  return figures.section("Choice of the expert", text, [table])


def _bodies(study: Study, rows: Sequence[Row]) -> list[list[list[Item]]]:
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(row.record["pretraining"], []).append(row)
  return [
    _body(study, alike)
    for alike in found.values()
    if len({row.record["expert"]["choice"] for row in alike}) > 1
  ]


def _body(study: Study, rows: Sequence[Row]) -> list[list[Item]]:
  domains = shared(rows)
  costs = [row.spent("flops", "specialization", over=domains) for row in rows]
  after = mark([(row, row.perplexity(domains=domains)) for row in rows], study)
  lines: list[list[Item]] = []
  for row, cost, score in zip(rows, costs, after, strict=True):
    choice = row.record["expert"]["choice"]
    lines.append(
      [
        *(Name(row.method), _RULES[choice], count(row.domain_tokens), percent(row.share)),
        *(_share(row, domains), entry(row.perplexity("before", domains=domains)), score),
        *(scientific(cost), number(cost / min(costs)), str(len(domains))),
      ]
    )
  return lines


def _share(row: Row, domains: Sequence[str]) -> str:
  if row.record["expert"]["choice"] == "histogram":
    return "–"
  value = row.average(lambda cell: cell.record["expert"]["share"], domains)
  return "–" if value is None else percent(value.mean)
