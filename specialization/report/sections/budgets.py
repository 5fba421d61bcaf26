"""The four budgets and how far each method used them (arXiv 2402.01093, figure 1)."""

import math

from specialization import budgets
from specialization.report import figures
from specialization.report.figures import Item, Name, Section, Table
from specialization.report.results import Study
from specialization.report.text import count, scientific


def section(study: Study) -> Section | None:
  limits = study.limits
  if limits is None:
    return None
  text = (
    "What was set, and the most that a cell of each method took. Specialization is without looks at"
    " validation text. Ended by: the fine-tunings that the budget stopped."
  )
  allowed = (budgets.generic_limit(limits), budgets.specialization_limit(limits))
  first: list[Item] = [
    "budget",
    *(scientific(most) if math.isfinite(most) else "–" for most in allowed),
    *(count(n) if n else "–" for n in (limits.inference_parameters, limits.domain_tokens)),
    "",
  ]
  lines = [_line(method, study) for method in study.methods]
  head = ["Method", "generic FLOPs", "specialization FLOPs", "inference parameters"]
  table = Table([*head, "domain tokens", "ended by budget"], [[first], list(filter(None, lines))])
  return figures.section("Budgets", text, [table])


def _line(method: str, study: Study) -> list[Item]:
  cells = [cell for cell in study.cells if cell.of.method == method]
  if not cells:
    return []
  generic, special = (
    scientific(max(budgets.bound(cell.ledger, book) for cell in cells))
    for book in ("generic", "specialization")
  )
  ended = sum("budget" in cell.record["stopped"]["reason"] for cell in cells)
  used = max(cell.record["used_tokens"] for cell in cells)
  size = count(cells[0].record["parameters"]["inference"])
  return [Name(method), generic, special, size, count(used), f"{ended} of {len(cells)}"]
