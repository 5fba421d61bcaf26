"""What a reader must know before trusting the numbers: what is missing, failed, or one seed's."""

import math
from collections.abc import Sequence

from specialization import study as cells
from specialization.report.results import Study
from specialization.report.text import count, listing, percent

_MOST = 12  # that are named
_ALL = 0.95  # of the text that may be used: rows are whole


def notes(study: Study) -> list[str]:
  """Returns sentences about what is missing and what the macro averages are over."""
  said = []
  if study.missing:
    total = len(study.missing) + len(study.cells)
    names = _named([_name(cell, study) for cell in study.missing])
    said.append(f"Not there yet, {len(study.missing)} of {total} cells: {names}.")
  if study.failed:
    said.append(f"Failed: {_named(study.failed)}.")
  if study.broken:
    said.append(f"Could not be read: {_named(study.broken)}.")
  if less := _less(study):
    said.append(f"Less text than was allowed, all there is: {_named(less)}.")
  wild = [c.of for c in study.cells if not math.isfinite(c.nll["after", "domain"])]
  if wild:
    names = _named([_name(cell, study) for cell in wild])
    said.append(f"Not finite, so left out of the ranking: {names}.")
  found: dict[tuple[str, ...], list[str]] = {}
  for tokens, common in {row.domain_tokens: row.common for row in study.rows}.items():
    found.setdefault(common, []).append(count(tokens))
  for common, sizes in found.items():
    if not common:
      said.append(
        f"With {listing(sizes)} domain tokens no domain has every method: no macro averages."
      )
    elif len(common) < len(study.domains):
      said.append(
        f"Macro averages with {listing(sizes)} domain tokens are over the {len(common)} of"
        f" {len(study.domains)} domains that every method has: {', '.join(common)}."
      )
  return said


def trust(study: Study) -> str:
  """Returns what the number of seeds lets one say."""
  seeds = [len(runs) for row in study.rows for runs in row.cells.values()]
  if max(seeds) == 1:
    return (
      "Every number comes from one run with one seed, so it says nothing about chance: take"
      " differences of a few percent as ties until more seeds say otherwise."
    )
  few = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else f"{max(seeds)}"
  return (
    f"Numbers are means over {few} seeds, ± the sample standard deviation between them. A"
    " difference counts as clear above twice its own deviation between seeds or that of all small"
    " methods together, whichever is larger."
  )


def _less(study: Study) -> list[str]:
  """Returns the domains whose text is shorter than the largest amount that a cell may use."""
  found: dict[str, str] = {}
  for cell in study.cells:
    used = cell.record["used_tokens"]
    if used < _ALL * cell.of.domain_tokens:
      found[cell.of.domain] = f"{cell.of.domain} ({count(used)} tokens)"
  return [found[domain] for domain in study.domains if domain in found]


def _name(cell: cells.Cell, study: Study) -> str:
  known = [c.of for c in study.cells] + study.missing
  details = [count(cell.domain_tokens)]
  if len({c.share for c in known}) > 1:
    details.append(percent(cell.share))
  if len({c.seed for c in known}) > 1:
    details.append(f"seed {cell.seed}")
  return f"{cell.method} on {cell.domain} ({', '.join(details)})"


def _named(names: Sequence[str]) -> str:
  more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
  return ", ".join(names[:_MOST]) + more
