"""The report of a study, finished or not: two tables and a page, from the files of its results."""

from pathlib import Path

from specialization import tables
from specialization.artifact import write_text
from specialization.results import Expected, load


def write(workdir: Path, name: str, expected: Expected, command: str) -> Path:
  """Writes table.csv, table.md and report.html to workdir/report and returns the page's path.

  Args:
    workdir: of the study, with results/*.json and pretrain/METHOD/metrics.jsonl.
    name: of the study, for the title.
    expected: (method, domain, domain_tokens) of every cell, in the order to show.
    command: that made the study, for the header.

  Raises:
    UserError: there are no results at all.
  """
  from specialization import page  # Matplotlib is slow to import.

  study = load(workdir, expected)
  folder = workdir / "report"
  write_text(folder / "table.csv", tables.csv_table(study))
  write_text(folder / "table.md", tables.markdown_table(study))
  write_text(folder / "report.html", page.page(study, workdir, name, command))
  return folder / "report.html"
