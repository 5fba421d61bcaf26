"""The table of a study for a terminal."""

import textwrap
from pathlib import Path

from specialization.report.notes import notes
from specialization.report.results import Expected, Row, load
from specialization.report.tables import budget, columns
from specialization.report.text import count

_WIDTH = 118  # columns
_LONGEST = 24  # letters of a name
_RARE = ("hours_", "flops_data", "flops_inference")  # left to the page and the CSV


def terminal_table(workdir: Path, expected: Expected = ()) -> str:
  """Returns the table as text of at most 118 columns: macro averages and costs, then domains.

  Raises:
    UserError: there are no results at all.
  """
  study = load(workdir, expected)
  lines = list[Row | None]()
  for rows in study.groups.values():
    lines += [None, *rows] if lines else rows
  fixed = [
    ["", "  method"] + [_name(r, r in study.best_small) if r else "" for r in lines],
    ["domain", "tokens"] + [count(r.domain_tokens) if r else "" for r in lines],
  ]
  if len(study.shares) > 1:
    fixed.append(["pretraining", "tokens"] + [budget(r, study) if r else "" for r in lines])
  blocks = []
  for domains in (False, True):
    parts = []
    for column in columns(study):
      if column.key.startswith("perplexity_") != domains or column.key.startswith(_RARE):
        continue
      parts.append([column.group.split(",")[0], column.name[:_LONGEST]])
      entries = iter(column.entries(study))
      for row in lines:
        if row is None:
          parts[-1].append("")
          continue
        entry = next(entries)
        value = f"{entry.value} {entry.spread}".strip() + ("*" if entry.best else " ")
        parts[-1].append(value if domains or not entry.before else f"{entry.before} → {value}")
    blocks += _blocks(fixed, parts)
  said = [textwrap.fill(note, _WIDTH) for note in notes(study)]
  legend = "* lowest in its group   > best small model   perplexity before → after fine-tuning"
  return "\n\n".join([*blocks, "\n".join([legend, *said])])


def _name(row: Row, is_best: bool) -> str:
  return ("> " if is_best else "  ") + row.method[:_LONGEST]


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
