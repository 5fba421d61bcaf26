"""Perplexity against the generic budget, before fine-tuning and after (arXiv 2402.01093)."""

from specialization.report import figures
from specialization.report.figures import Lines, Section
from specialization.report.results import Study, shared
from specialization.report.text import count, hours, scientific

_UNITS = {"flops": ("FLOPs", scientific), "device_hours": ("device-hours", hours)}
_SHOWN = (("before", "flops"), ("after", "flops"), ("after", "device_hours"))


def section(study: Study) -> Section | None:
  if len(study.shares) < 2:
    return None
  text = (
    "What more pretraining brings. Across: what a method's own pretraining took, which all domains"
    " share, save for importance sampling, which pays it for each domain. Whiskers: deviation over"
    " seeds. Dashed: no pretraining."
  )
  parts = [_plot(study, tokens, *shown) for tokens in study.sizes for shown in _SHOWN]
  return figures.section("Generic budget", text, parts)


def _plot(study: Study, tokens: int, when: str, unit: str) -> Lines:
  rows = [row for row in study.rows if row.domain_tokens == tokens and row.whole]
  domains = shared(rows)
  lines = [
    figures.path(
      study.through(method, tokens),
      lambda row: row.pretraining(unit),
      lambda row: row.perplexity(when, domains=domains),
    )
    for method in dict.fromkeys(row.method for row in rows if row.kind != "none")
  ]
  lines = [line for line in lines if len(line.x) > 1]
  bases = [row for row in study.at(tokens, study.shares[-1], "none") if when == "after"]
  levels, far = figures.levels(lines, bases, domains)
  name, text = _UNITS[unit]
  return Lines(
    f"{count(tokens)} domain tokens, {when} fine-tuning",
    lines,
    f"{name} of pretraining",
    "macro perplexity",
    caption=f"{far} {study.scope(domains)}".strip(),
    levels=levels,
    x_text=text,
  )
