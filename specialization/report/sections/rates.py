"""Learning rates: each method's sweep, where a study has the same method with several."""

from collections.abc import Sequence

from specialization.report import figures
from specialization.report.figures import Entry, Item, Name, Section, Table
from specialization.report.results import Row, Study
from specialization.report.text import count, number, percent

# Rows whose records differ in nothing of this are one method with several learning rates.
_SAME = ("family", "strategy", "clusters", "objective", "size")


def section(study: Study) -> Section | None:
  text = (
    "The same method with several learning rates, on the macro average of the lowest validation"
    " perplexity of each fine-tuning; bold: the choice. Test text has no say in it."
  )
  bodies = [
    _body(alike)
    for rows in study.groups.values()
    for alike in _sweeps(rows)
    if len({tuple(row.record["learning_rates"].values()) for row in alike}) > 1
  ]
  table = Table(
    [
      *("Method", "Domain tokens", "Pretraining"),
      *("pretraining", "fine-tuning", "Validation", "Test"),
    ],
    bodies,
    spans=[("", 3), ("Learning rate", 2), ("Macro perplexity", 2)],
  )
  return figures.section("Learning rates", text, [table])


def _sweeps(rows: Sequence[Row]) -> list[list[Row]]:
  found: dict[tuple[str, ...], list[Row]] = {}
  for row in rows:
    same = (*(str(row.record[key]) for key in _SAME), row.record["expert"]["choice"])
    found.setdefault(same, []).append(row)
  return list(found.values())


def _body(rows: Sequence[Row]) -> list[list[Item]]:
  scores = [row.validation() for row in rows]
  least = min(score.mean for score in scores)
  lines: list[list[Item]] = []
  for row, score in zip(rows, scores, strict=True):
    rates = row.record["learning_rates"]
    trained = ("none", "–")
    if row.kind != "none":
      trained = (percent(row.share), f"{rates['pretraining']:.2g}")
    lines.append(
      [
        *(Name(row.method), count(row.domain_tokens), *trained, f"{rates['fine_tuning']:.2g}"),
        *(Entry(number(score.mean), best=score.mean == least), figures.entry(row.perplexity())),
      ]
    )
  return lines
