"""Perplexity against what exported models cost where they run, measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from specialization.report import figures
from specialization.report.figures import Item, Line, Lines, Name, Section, Table
from specialization.report.results import Study
from specialization.report.text import count, number

Record = Mapping[str, Any]


def section(study: Study) -> Section | None:
  records = _records(study)
  if not records:
    return None
  where = "; ".join(dict.fromkeys(f"{r['hardware']}, {r['date']}" for r in records))
  text = (
    "Exports, each by its target's own reader on the processor, in a process of its own. Prefill:"
    " one row as long as the model was trained on (StableHLO computes the logits of all of it);"
    " decode: up to 64 tokens after 16, for one row and for 16 at once; medians of 5. Memory: the"
    " most that the process had, interpreter and libraries included. MLX computes in 32 bits here."
    f" {where}."
  )
  domains = dict.fromkeys(record["domain"] for record in records)
  parts: list[Table | Lines] = [_table(records)]
  for domain in domains:
    some = [record for record in records if record["domain"] == domain]
    parts.append(_plot(f"{domain}: size", some, "bytes", "megabytes", 1e6))
    for by in dict.fromkeys(record["by"] for record in some):
      own = [record for record in some if record["by"] == by]
      parts.append(_plot(f"{domain}: decoding by {by}", own, "decode_1", "tokens/s, one row", 1.0))
  return figures.section("Inference, measured", text, parts)


def _records(study: Study) -> list[Record]:
  known = {cell.of.name: cell.of for cell in study.cells}
  found = []
  for path in sorted((study.workdir / "inference").glob("*.json")):
    record = json.loads(path.read_text())
    if record["cell"] in known:
      of = known[record["cell"]]
      found.append(record | {"method": of.method, "domain": of.domain})
  order = [*study.methods]
  return sorted(found, key=lambda r: (r["domain"], order.index(r["method"]), -r["bytes"]))


def _table(records: Sequence[Record]) -> Table:
  head = ["Method", "domain", "format", "numbers", "read by", "prefill", "decode", "16 rows"]
  head += ["model", "memory", "perplexity"]
  over = (("", 5), ("Tokens per second", 3), ("Megabytes", 2), ("Held-out text", 1))
  groups: dict[str, list[Sequence[Item]]] = {}
  for r in records:
    groups.setdefault(r["cell"], []).append(
      [
        Name(r["method"]),
        *(r["domain"], r["format"], r["dtype"], r["by"]),
        *(count(r[key]) if r[key] else "–" for key in ("prefill", "decode_1", "decode_16")),
        *(f"{r['bytes'] / 1e6:.2f}", f"{r['memory'] / 1e6:.0f}"),
        number(r["perplexity"]),
      ]
    )
  return Table(head, list(groups.values()), spans=over)


def _plot(title: str, records: Sequence[Record], key: str, label: str, unit: float) -> Lines:
  """Returns a plot with a line for each method through its kinds of numbers."""
  groups: dict[str, list[Record]] = {}
  for record in sorted(records, key=lambda r: float(r[key])):
    if record[key]:
      groups.setdefault(record["method"], []).append(record)
  series = [
    Line(method, [r[key] / unit for r in some], [r["perplexity"] for r in some])
    for method, some in groups.items()
  ]
  return Lines(title, series, label, "perplexity")
