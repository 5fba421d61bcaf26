"""The table of all that a study measured, a row for each method, domain size and generic budget."""

import csv
import dataclasses
import io
from collections.abc import Callable
from typing import Any

from specialization.report.figures import Entry, Item, Name, Table, entry, mark
from specialization.report.results import Row, Study, Value
from specialization.report.text import count, hours, number, percent, scientific

_BOOKS = ("generic", "specialization", "data", "inference")  # in the order to show
_MANY = 30  # rows: more are folded away


@dataclasses.dataclass(frozen=True)
class Column:
  """A column: how to get its value, and the value before fine-tuning if it has one."""

  group: str
  name: str
  key: str  # in the CSV
  value: Callable[[Row], Value | None]
  before: Callable[[Row], Value | None] | None = None
  text: Callable[[float], str] = number
  compared: bool = True  # the lowest is the best

  def entries(self, study: Study) -> list[Entry]:
    """Returns the column's entries, those of a group compared with one another."""
    found = []
    for rows in study.groups.values():
      items = [(row, self.value(row)) for row in rows]
      if self.compared:
        shown = mark(items, study, self.text)
      else:
        shown = [entry(value, self.text) for _, value in items]
      for row, item in zip(rows, shown, strict=True):
        before = self.before(row) if self.before else None
        found.append(item._replace(before="" if before is None else self.text(before.mean)))
    return found


def columns(study: Study) -> list[Column]:
  """Returns the table's columns, macro averages first."""

  def perplexity(name: str, key: str, *where: Any) -> Column:
    before, after = (lambda row, w=when: row.perplexity(w, *where) for when in ("before", "after"))
    return Column("Perplexity, before → after", name, key, after, before)

  def cost(book: str, unit: str) -> Column:
    get = lambda row: Value(row.spent(unit, book), None)  # noqa: E731
    if unit == "flops":
      return Column("FLOPs", book, f"flops_{book}", get, text=scientific)
    return Column("Device-hours", book, f"hours_{book}", get, text=hours)

  def parameters(name: str) -> Column:
    get = lambda row: Value(float(row.parameters(name)), None)  # noqa: E731
    return Column("Parameters", name, f"parameters_{name}", get, text=count, compared=False)

  bits = lambda row: row.average(lambda cell: cell.bits, row.common)  # noqa: E731
  units = ("flops", "device_hours")
  booked = [b for b in _BOOKS if any(c.spent(unit, (b,)) for c in study.cells for unit in units)]
  return [
    perplexity("macro", "macro_perplexity"),
    *(perplexity(d, f"perplexity_{d}", "domain", (d,)) for d in study.domains),
    perplexity("generic text", "generic_perplexity", "generic"),
    Column(
      "Before",
      "generic text, routed",
      "generic_perplexity_routed",
      lambda row: row.perplexity("before", "routed"),
    ),
    Column(
      "In lm-eval's windows",
      "macro, after",
      "macro_perplexity_rolling",
      lambda row: row.perplexity("after", "rolling"),
    ),
    Column("Bits per byte", "macro, after", "macro_bits_per_byte", bits),
    parameters("pretraining"),
    parameters("inference"),
    *(cost(book, unit) for unit in units for book in booked),
  ]


def budget(row: Row, study: Study) -> str:
  """Returns how far a row was pretrained, in tokens and as a share where there are several."""
  if row.kind == "none":
    return "none"
  tokens = count(row.pretraining("tokens"))
  return f"{percent(row.share)}: {tokens}" if len(study.shares) > 1 else tokens


def csv_table(study: Study) -> str:
  """Returns the table with all digits, and the spreads over seeds where there are any."""
  fields: dict[str, list[str]] = {"method": [r.method for r in study.rows]}
  for key in ("family", "strategy", "clusters", "objective", "size"):
    fields[key] = [str(row.record[key]) for row in study.rows]
  fields["choice"] = [row.record["expert"]["choice"] for row in study.rows]
  fields["domain_tokens"] = [str(r.domain_tokens) for r in study.rows]
  fields["share"] = [f"{r.share:.10g}" for r in study.rows]
  fields["pretraining_tokens"] = [f"{row.pretraining('tokens'):.10g}" for row in study.rows]
  fields["seeds"] = [str(max(len(s) for s in r.cells.values())) for r in study.rows]
  fields["best_small"] = [str(int(row in study.best_small)) for row in study.rows]
  for column in columns(study):
    after = [column.value(row) for row in study.rows]
    parts = {f"{column.key}_after" if column.before else column.key: [v and v.mean for v in after]}
    if column.before:
      before = [column.before(row) for row in study.rows]
      parts = {f"{column.key}_before": [v and v.mean for v in before], **parts}
    if any(v and v.spread is not None for v in after):
      parts[f"{column.key}_deviation"] = [v and v.spread for v in after]
    for key, values in parts.items():
      fields[key] = ["" if value is None else f"{value:.10g}" for value in values]
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerows([fields, *zip(*fields.values(), strict=True)])
  return buffer.getvalue()


def table(study: Study) -> Table:
  """Returns the table for Markdown and the page."""
  shown = columns(study)
  spans = [(column.group, [c.group for c in shown].count(column.group)) for column in shown]
  entries = zip(*(column.entries(study) for column in shown), strict=True)
  bodies: list[list[list[Item]]] = []
  for rows in study.groups.values():
    bodies.append([])
    for row in rows:
      name = Name(row.method, "best small" * (row in study.best_small))
      bodies[-1].append([name, count(row.domain_tokens), budget(row, study), *next(entries)])
  return Table(
    ["Method", "Domain tokens", "Pretraining tokens", *(column.name for column in shown)],
    bodies,
    "Every number",
    "Bold: the lowest among rows with equal domain tokens and pretraining. Generic text: by the"
    " models of the domains; routed: by the expert of each document's cluster.",
    spans=[("", 3), *dict.fromkeys(spans)],
    folded=len(study.rows) > _MANY,
  )
