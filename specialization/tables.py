"""What a study found, as tables and in words."""

import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from specialization.results import Expected, Row, Study, Value, load, ratio

_BOOKS = ("generic", "specialization", "data", "inference")  # in the order to show
TASKS = (1, 7, 50)  # whose cost is shown
_WIDTH = 118  # columns of the terminal's table


def number(value: float) -> str:
  """Returns four significant digits or so: 7.123, 45.12, 161.0, 2330, inf, nan."""
  if not abs(value) < 1e5:
    return f"{value:.4g}"
  return f"{value:.{next((3 - i for i in range(3) if abs(value) < 10 ** (i + 1)), 0)}f}"


def count(value: int | float) -> str:
  """Returns a number of tokens or parameters: 800, 4.1k, 28M, 1.422B."""
  for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= limit * 0.99995:
      return f"{value / limit:.4g}{unit}"
  return f"{value:.4g}"


def scientific(value: float) -> str:
  """Returns FLOPs: 1.23e15, 0."""
  if not math.isfinite(value) or not value:
    return f"{value:g}"
  mantissa, exponent = f"{value:.2e}".split("e")
  return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of the table: how to get its value, and the value before fine-tuning if it has one."""

  group: str
  name: str
  key: str  # in the CSV
  value: Callable[[Row], Value | None]
  before: Callable[[Row], Value | None] | None = None
  text: Callable[[float], str] = number
  compared: bool = True  # the lowest is the best

  def show(self, row: Row) -> tuple[str, str, str]:
    """Returns the texts of the value before, the value, and its spread."""
    before = self.before(row) if self.before else None
    value = self.value(row)
    spread = None if value is None else value.spread
    return (
      "" if before is None else self.text(before.mean),
      "–" if value is None else self.text(value.mean),
      "" if spread is None else f"± {spread:{'#.2g' if spread < 9.95 else '.0f'}}",
    )

  def best(self, study: Study) -> list[Row]:
    """Returns the rows to mark: the lowest of each group, unless that is most of them."""
    marked: list[Row] = []
    for rows in study.groups.values() if self.compared else ():
      values = [(value.mean, row) for row in rows if (value := self.value(row)) is not None]
      finite = [mean for mean, _ in values if math.isfinite(mean)]
      lowest = self.text(min(finite)) if finite else ""
      best = [row for mean, row in values if self.text(mean) == lowest]
      marked += best if 2 * len(best) <= len(values) else []
    return marked


def columns(study: Study) -> list[Column]:
  """Returns the table's columns, macro averages first."""

  def perplexity(name: str, key: str, *where: Any) -> Column:
    before, after = (lambda row, w=when: row.perplexity(w, *where) for when in ("before", "after"))
    return Column("Perplexity, before → after", name, key, after, before)

  def cost(book: str, unit: int) -> Column:
    get = lambda row: Value(row.spent(book, unit), None)  # noqa: E731
    if unit:
      return Column("Device-hours", book, f"hours_{book}", get, text="{:.3g}".format)
    return Column("FLOPs", book, f"flops_{book}", get, text=scientific)

  def parameters(name: str) -> Column:
    get = lambda row: Value(float(row.parameters(name)), None)  # noqa: E731
    return Column("Parameters", name, f"parameters_{name}", get, text=count, compared=False)

  bits = lambda row: row.average(lambda cell: cell.bits, row.common)  # noqa: E731
  booked = [b for b in _BOOKS if any(any(cell.cost[b]) for cell in study.cells)]
  return [
    perplexity("macro", "macro_perplexity"),
    *(perplexity(d, f"perplexity_{d}", "domain", (d,)) for d in study.domains),
    perplexity("generic text", "generic_perplexity", "generic"),
    Column("Bits per byte", "macro, after", "macro_bits_per_byte", bits),
    parameters("pretraining"),
    parameters("inference"),
    *(cost(book, unit) for unit in (0, 1) for book in booked),
  ]


def notes(study: Study) -> list[str]:
  """Returns sentences about what is missing and what the macro averages are over."""
  said = []
  if study.missing:
    cells = ", ".join(f"{m} on {d} ({count(n)})" for m, d, n in study.missing[:12])
    more = f" and {len(study.missing) - 12} more" if len(study.missing) > 12 else ""
    said.append(f"Not there yet: {cells}{more}.")
  if study.broken:
    said.append(f"Could not be read: {', '.join(study.broken)}.")
  wild = [c for c in study.cells if not math.isfinite(c.nll["after", "domain"])]
  if wild:
    cells = ", ".join(f"{c.method} on {c.domain} ({count(c.domain_tokens)})" for c in wild)
    said.append(f"Not finite, so left out of the ranking: {cells}.")
  for tokens, rows in study.groups.items():
    if len(common := rows[0].common) < len(study.domains):
      said.append(
        f"Macro averages with {count(tokens)} domain tokens are over the {len(common)} of"
        f" {len(study.domains)} domains that every method has: {', '.join(common)}."
        if common
        else f"With {count(tokens)} domain tokens no domain has every method: no macro averages."
      )
  return said


def words(study: Study) -> list[str]:
  """Returns what the numbers say, a paragraph each: ranking, fine-tuning, trust."""
  paragraphs = []
  for tokens, rows in study.groups.items():
    ranked = sorted((r for r in rows if math.isfinite(r.macro())), key=lambda row: row.macro())
    if len(ranked) > 1:
      paragraphs.append(f"With {count(tokens)} domain tokens, {_ranking(study, ranked)}")
  for where, text in (("domain", "macro perplexity"), ("generic", "perplexity on generic text")):
    found = [(ratio(r.macro("after", where), r.macro("before", where)) - 1, r) for r in study.rows]
    found = sorted((pair for pair in found if -1 < pair[0] < math.inf), key=lambda pair: pair[0])
    if found:
      lower, higher = found[-1][0] < 0, found[0][0] > 0
      ends = [
        f"{abs(c) if lower or higher else c:{'' if lower or higher else '+'}.1%}"
        f" ({r.method}, {count(r.domain_tokens)} tokens)"
        for c, r in found[:: len(found) - 1 or 1]
      ]
      verb = "lowered" if lower else "raised" if higher else "changed"
      said = " to ".join(ends[::-1] if lower else ends)
      paragraphs.append(f"Fine-tuning {verb} the {text} by {said}.")
  seeds = [len(runs) for row in study.rows for runs in row.cells.values()]
  few = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else f"{max(seeds)}"
  several = f"Numbers are means over {few} seeds, ± the sample standard deviation between them."
  single = (
    "Every number comes from one run with one seed, so it says nothing about chance: take"
    " differences of a few percent as ties until more seeds say otherwise."
  )
  return [*paragraphs, several if max(seeds) > 1 else single]


def _ranking(study: Study, ranked: Sequence[Row]) -> str:
  first, second = ranked[:2]
  low, high = first.macro(), second.macro()
  said = (
    f"{first.method} has the lowest macro perplexity, {number(low)}: {1 - low / high:.1%}"
    f" below {second.method} ({number(high)})"
  )
  spreads = [value.spread for r in (first, second) if (value := r.perplexity())]
  if None not in spreads:
    clear = high - low > 2 * math.hypot(*filter(None, spreads))
    said += f", {'more' if clear else 'less'} than twice the deviation between seeds"
    said += "" if clear else " and so too close to call"
  wins = [d for d in first.common if all(first.on(d) <= row.on(d) for row in ranked)]
  said += f". It is the best on {len(wins)} of {len(first.common)} domains."
  small = next((row for row in ranked if row in study.best_small()), first)
  if small is not first:
    said += (
      f" The best small model is {small.method}, {number(small.macro())}:"
      f" {small.macro() / low - 1:.1%} above, with {count(small.parameters('inference'))}"
      f" parameters at inference in place of {count(first.parameters('inference'))}."
    )
  costs = []
  for n in (TASKS[0], TASKS[-1]):
    cheapest = min(ranked, key=lambda row: row.tasks(n))
    times = ratio(first.tasks(n), cheapest.tasks(n))
    rest = f"{times:.2g} times the cheapest, {cheapest.method}" if times > 1.005 else "the cheapest"
    costs.append(f"{scientific(first.tasks(n))} FLOPs for {n} task{'s' * (n > 1)} ({rest})")
  return f"{said} {first.method} costs {' and '.join(costs)}."


def csv_table(study: Study) -> str:
  """Returns the table with all digits, and the spreads over seeds where there are any."""
  fields: dict[str, list[str]] = {"method": [r.method for r in study.rows]}
  fields["domain_tokens"] = [str(r.domain_tokens) for r in study.rows]
  fields["seeds"] = [str(max(len(s) for s in r.cells.values())) for r in study.rows]
  fields["best_small"] = [str(int(row in study.best_small())) for row in study.rows]
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


def markdown_table(study: Study) -> str:
  """Returns the table in Markdown, the best of each column bold."""
  shown = columns(study)
  best = [column.best(study) for column in shown]
  head = ["Method", "Domain tokens", *(f"{c.group.split(',')[0]}: {c.name}" for c in shown)]
  lines = [head, ["---", *["---:"] * (len(head) - 1)]]
  for row in study.rows:
    name = row.method + " (best small)" * (row in study.best_small())
    line = [name, count(row.domain_tokens)]
    for column, marked in zip(shown, best, strict=True):
      before, value, spread = column.show(row)
      value = f"**{value}**" if row in marked else value
      line.append(f"{before} → {value} {spread}".strip(" →"))
    lines.append(line)
  table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  return "\n\n".join([table, *notes(study), *words(study)]) + "\n"


def terminal_table(workdir: Path, expected: Expected = ()) -> str:
  """Returns the table as text of at most 118 columns: macro averages and costs, then domains.

  Raises:
    UserError: there are no results at all.
  """
  study = load(workdir, expected)
  small, lines = study.best_small(), list[Row | None]()
  for rows in study.groups.values():
    lines += [None, *rows] if lines else rows
  names = [("> " if r in small else "  ") + r.method[:24] if r else "" for r in lines]
  sizes = [count(row.domain_tokens) if row else "" for row in lines]
  rare = ("hours_", "flops_data", "flops_inference")  # left to the page and the CSV
  blocks = []
  for domains in (False, True):
    parts = []
    for column in columns(study):
      if column.key.startswith("perplexity_") != domains or column.key.startswith(rare):
        continue
      marked = column.best(study)
      parts.append([column.group.split(",")[0], column.name[:24]])
      for row in lines:
        before, value, spread = column.show(row) if row else ("", "", "")
        value = f"{value} {spread}".strip() + ("*" if row in marked else " ")
        parts[-1].append(value if domains or not before else f"{before} → {value}")
    blocks += _blocks([["", "  method", *names], ["domain", "tokens", *sizes]], parts)
  said = [textwrap.fill(note, _WIDTH) for note in notes(study)]
  legend = "* lowest among equal domain tokens   > best small model   perplexity before → after"
  return "\n\n".join([*blocks, "\n".join([legend, *said])])


def _blocks(fixed: list[list[str]], columns: list[list[str]]) -> list[str]:
  """Returns aligned texts, each as wide as fits, that repeat the fixed columns."""
  blocks, shown = [], list(fixed)
  for i, column in enumerate(columns):
    shown.append(column)
    widths = [max(map(len, texts)) for texts in (*shown, *columns[i + 1 : i + 2])]
    if i + 1 == len(columns) or sum(widths) + 2 * len(shown) > _WIDTH:
      lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in zip(*shown, strict=True)
      ]
      blocks.append("\n".join(lines))
      shown = list(fixed)
  return blocks
