"""The report of a study, finished or not: tables and a page, from the files of its results."""

from pathlib import Path

from specialization.artifact import write_text
from specialization.config import BudgetsConfig
from specialization.report import markdown, tables
from specialization.report.results import Expected, load


def write(
  workdir: Path,
  name: str,
  expected: Expected,
  command: str,
  limits: BudgetsConfig | None = None,
) -> Path:
  """Writes table.csv, table.md, report.html and figures/*.pdf and *.png to workdir/report.

  Args:
    workdir: of the study, with results/*.json, pretrain/RUN/metrics.jsonl and failed/*.txt.
    name: of the study, for the title.
    expected: every cell, in the order to show.
    command: that made the study, for the header.
    limits: the budgets that were set.

  Returns:
    The page's path.

  Raises:
    UserError: there are no results at all.
  """
  from specialization.report import page  # Matplotlib is slow to import.

  study = load(workdir, expected, limits)
  folder = workdir / "report"
  write_text(folder / "table.csv", tables.csv_table(study))
  write_text(folder / "table.md", markdown.document(study))
  write_text(folder / "report.html", page.page(study, name, command, folder / "figures"))
  return folder / "report.html"
