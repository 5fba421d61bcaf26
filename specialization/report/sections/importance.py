"""What resampling by clusters does for each domain (arXiv 2402.01093)."""

from specialization.report import figures
from specialization.report.figures import Item, Name, Section, Table
from specialization.report.results import Row, Study
from specialization.report.text import count, number, percent


def section(study: Study) -> Section | None:
  share = study.shares[-1]
  more = f" At {percent(share)} of pretraining." if len(study.shares) > 1 else ""
  text = (
    "Effective rows: how many generic rows of equal weight would serve as well; few mean a narrow"
    " resample. Repeats: how often training goes through the most repeated cluster. Repeated: the"
    " share of rows from clusters gone through more often than is allowed. KL: from the domain's"
    f" histogram to the resampled text's and to that of generic text, in nats.{more}"
  )
  parts = []
  for tokens in study.sizes:
    rows = [row for row in study.groups.get((tokens, share), []) if row.kind == "importance"]
    name = f"{count(tokens)} domain tokens" if len(study.sizes) > 1 else ""
    parts.append(_table(study, rows, name, folded=tokens != study.sizes[0]))
  return figures.section("Importance sampling", text, parts)


def _table(study: Study, rows: list[Row], name: str, folded: bool) -> Table:
  bodies = [[_line(domain, row) for row in rows if domain in row.cells] for domain in study.domains]
  return Table(
    [
      *("Domain", "Method", "Clusters", "Documents", "effective", "all", "Repeats", "Repeated"),
      *("resampled", "generic"),
    ],
    [body for body in bodies if body],
    name,
    spans=[("", 4), ("Generic rows", 2), ("", 2), ("KL to", 2)],
    folded=folded,
  )


def _line(domain: str, row: Row) -> list[Item]:
  found = next(iter(row.cells[domain].values())).record["importance"]
  return [
    *(domain, Name(row.method), str(found["clusters"]), count(found["documents"])),
    *(count(round(found["effective_rows"])), count(found["generic_rows"])),
    *(number(found["most_repeats"]), percent(found["repeated"])),
    *(number(found["kl"]), number(found["kl_generic"])),
  ]
