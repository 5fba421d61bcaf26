"""The report in Markdown: all of its tables and words, without its plots."""

from specialization.report import sections, tables
from specialization.report.figures import Entry, Item, Name, Section, Table
from specialization.report.notes import notes, trust
from specialization.report.results import Study
from specialization.report.sections import advice


def document(study: Study) -> str:
  """Returns the words, what is to know about the numbers, the sections, and every number."""
  parts = [*advice.words(study), trust(study), *notes(study)]
  for section in sections.of(study):
    parts += _section(section)
  return "\n\n".join([*parts, "## Every number", table(tables.table(study))]) + "\n"


def _section(section: Section) -> list[str]:
  found = [part for part in section.parts if isinstance(part, Table)]
  if not found:
    return []
  lines = [f"## {section.title}", section.text]
  for part in found:
    lines += [text for text in (part.title and f"### {part.title}", table(part)) if text]
  return lines


def table(part: Table) -> str:
  """Returns a table; the names over its columns go before those of the columns."""
  over = [name for name, n in part.spans for _ in range(n)] or [""] * len(part.head)
  head = [
    f"{group.split(',')[0]}: {name}" if group else name
    for group, name in zip(over, part.head, strict=True)
  ]
  first = part.bodies[0][0]
  left = [isinstance(item, Name) or i in part.prose for i, item in enumerate(first)]
  lines = [head, ["---" if is_left else "---:" for is_left in left]]
  lines += [[_cell(item) for item in row] for body in part.bodies for row in body]
  text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  return f"{text}\n\n{part.caption}" if part.caption else text


def _cell(item: Item) -> str:
  if isinstance(item, Name):
    return f"{item.method} ({item.badge})" if item.badge else item.method
  if isinstance(item, Entry):
    value = f"**{item.value}**" if item.best else item.value
    return f"{item.before} → {value} {item.spread}".strip(" →")
  return item.replace("|", "\\|")
