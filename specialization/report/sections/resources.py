"""Parameters, speed and cost per token of each method (arXiv 2402.01093)."""

import numpy as np

from specialization import metrics
from specialization.report import figures
from specialization.report.figures import Item, Name, Section, Table
from specialization.report.results import Row, Study, ratio
from specialization.report.text import count, hours, scientific

_TRAINING = ("generic", "specialization")


def section(study: Study) -> Section | None:
  text = (
    "Tokens per second: the median in pretraining. Device-hours: of training, with the validation"
    " in it, and for a distilled model with the teacher beside it; at inference: of tests."
    " Importance sampling trains for one domain alone, so all of it is specialization. Compilation"
    " is left out; processes on one device share its speed. Model FLOPs: in training forward and"
    " backward, at inference forward."
  )
  order = sorted(study.rows, key=lambda row: (row.share, -row.domain_tokens))
  longest = {row.method: row for row in order}
  lines = [_line(longest[method], study) for method in study.methods if method in longest]
  table = Table(
    [
      *("Method", "pretraining", "inference", "pretraining"),
      *("generic", "specialization", "inference"),
      *("pretraining", "fine-tuning", "inference"),
    ],
    [lines],
    spans=[
      *(("", 1), ("Parameters", 2), ("Tokens per second", 1)),
      *(("Device-hours per 1B tokens", 3), ("Model FLOPs per token", 3)),
    ],
  )
  return figures.section("Parameters and throughput", text, [table])


def _line(row: Row, study: Study) -> list[Item]:
  large, small = row.parameters("pretraining"), row.parameters("inference")
  books = (*_TRAINING, "inference")
  hourly = [1e9 * _per_token(row, "device_hours", (book,)) for book in books]
  flops = [
    _per_token(row, "flops", _TRAINING, "pretrain"),
    _per_token(row, "flops", ("specialization",), "specialize"),
    _per_token(row, "flops", ("inference",)),
  ]
  return [
    *(Name(row.method), count(large) if large else "–", count(small), _speed(row, study)),
    *(hours(value) if value > 0 else "–" for value in hourly),
    *(scientific(value) if value > 0 else "–" for value in flops),
  ]


def _per_token(row: Row, unit: str, books: tuple[str, ...], phase: str = "") -> float:
  """Returns a unit per token where it was measured: validation books no hours of its own."""
  cells = [cell for seeds in row.cells.values() for cell in seeds.values()]
  entries = [e for cell in cells for e in cell.entries(books, phase, False)]
  measured = [entry for entry in entries if getattr(entry, unit)]
  return ratio(sum(getattr(e, unit) for e in measured), sum(e.tokens for e in measured))


def _speed(row: Row, study: Study) -> str:
  cells = [cell for seeds in row.cells.values() for cell in seeds.values()]
  runs = dict.fromkeys(cell.record["pretraining"] for cell in cells)
  lines = [line for run in runs for line in metrics.read(study.workdir / "pretrain" / run)]
  speeds = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
  return count(float(np.median(speeds))) if speeds else "–"
