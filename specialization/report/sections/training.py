"""How training went: losses in pretraining, validation losses in fine-tuning."""

from collections.abc import Sequence

import numpy as np

from specialization import metrics
from specialization.report import figures
from specialization.report.figures import Line, Lines, Section
from specialization.report.results import Cell, Row, Study
from specialization.report.text import count, percent


def section(study: Study) -> Section | None:
  tokens, share = study.sizes[0], study.shares[-1]
  more = f" at {percent(share)} of pretraining" if len(study.shares) > 1 else ""
  text = (
    "Losses in nats per token of pretrained methods, of the first seed and, in importance"
    " sampling's pretraining, of the first domain. Fine-tuning with"
    f" {count(tokens)} domain tokens{more}; a large marker shows the step that was kept."
  )
  rows = [row for row in study.groups.get((tokens, share), []) if row.kind != "none"]
  tuning = [_tuning(domain, rows) for domain in study.domains]
  return figures.section("Training", text, [_pretraining(study, rows), *tuning])


def _first(row: Row, domain: str) -> Cell | None:
  """Returns the cell of the first seed."""
  return next(iter(row.cells[domain].values())) if domain in row.cells else None


def _pretraining(study: Study, rows: Sequence[Row]) -> Lines:
  lines: dict[str, Line] = {}
  for row in rows:
    run = row.record["pretraining"]
    history = metrics.read(study.workdir / "pretrain" / run)
    points = [(float(entry["tokens"]), entry["loss"]) for entry in history if "loss" in entry]
    x, y = (thin([point[i] for point in points]) for i in (0, 1))
    lines.setdefault(run, Line(row.method, x, y))
  return Lines("Pretraining", list(lines.values()), "training tokens", "training loss")


def _tuning(domain: str, rows: Sequence[Row]) -> Lines:
  lines = []
  for cell in filter(None, (_first(row, domain) for row in rows)):
    x, y = ([float(point[i]) for point in cell.record["curve"]] for i in (0, 1))
    best = float(cell.record["stopped"]["best_step"])
    lines.append(Line(cell.of.method, x, y, star=best))
  return Lines(
    f"Fine-tuning on {domain}", lines, "fine-tuning steps", "validation loss", x_log=False
  )


def thin(values: Sequence[float], bins: int = 200) -> list[float]:
  """Returns the means of at most `bins` runs of neighboring values."""
  parts = np.array_split(np.asarray(values, float), bins)
  return [float(part.mean()) for part in parts if part.size]
