"""The page of a report: one HTML document that needs nothing beside itself."""

import html
import itertools
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from specialization.report import sections, tables
from specialization.report.figures import Entry, Item, Name, Part, Section, Table
from specialization.report.notes import notes, trust
from specialization.report.plots import Look, draw, looks
from specialization.report.results import Study
from specialization.report.sections import advice
from specialization.report.template import CONVENTIONS, PAGE


def page(study: Study, name: str, command: str, figures: Path) -> str:
  """Returns the whole report as one HTML document, which needs nothing beside itself.

  Args:
    study: its results.
    name, command: for the header.
    figures: folder where each plot is left as a PDF and a PNG, too.
  """
  shutil.rmtree(figures, ignore_errors=True)
  figures.mkdir(parents=True)
  look = looks(study.methods, study.kinds)
  dates = sorted({cell.record["date"] for cell in study.cells})
  made = [" to ".join(dict.fromkeys((dates[0], dates[-1])))]
  made += dict.fromkeys(cell.record["hardware"] for cell in study.cells)
  words = [*advice.words(study), trust(study)]
  said = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in words)
  lacks = "".join(f"<p>{html.escape(note)}</p>" for note in notes(study))
  every = _sections(study)
  return PAGE.format(
    title=html.escape(name),
    made=html.escape(" · ".join(made)),
    command=html.escape(command),
    words=said + (f'<div class="card warn">{lacks}</div>' if lacks else ""),
    contents="".join(f'<a href="#{_id(s.title)}">{html.escape(s.title)}</a>' for s in every),
    sections="".join(_section(section, look, figures) for section in every),
    conventions=html.escape(CONVENTIONS),
  )


def _sections(study: Study) -> list[Section]:
  text = "Each domain, and each book of the ledger."
  return [*sections.of(study), Section("Everything", text, [tables.table(study)])]


def _id(title: str) -> str:
  return re.sub(r"\W+", "-", title.lower())


def _section(section: Section, look: Mapping[str, Look], figures: Path) -> str:
  title, text = html.escape(section.title), html.escape(section.text)
  shown = f'<h2 id="{_id(section.title)}">{title}</h2><p class="soft">{text}</p>'
  for are_tables, parts in itertools.groupby(section.parts, lambda part: isinstance(part, Table)):
    drawn = "".join(_part(part, look, section.title, figures) for part in parts)
    shown += drawn if are_tables else f'<div class="plots">{drawn}</div>'
  return shown


def _part(part: Part, look: Mapping[str, Look], where: str, figures: Path) -> str:
  if isinstance(part, Table):
    return _table(part, look)
  plot = draw(part, look, figures / f"{_id(f'{where} {part.title}')}")
  # Plots share one page, whose ids must be unique.
  unique = f"p{zlib.crc32((where + part.title + plot).encode()):x}-"
  plot = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{unique}", plot)
  return f'<figure class="card"><h3>{html.escape(part.title)}</h3>{plot}{_caption(part)}</figure>'


def _caption(part: Part) -> str:
  return f"<figcaption>{html.escape(part.caption)}</figcaption>" if part.caption else ""


def _table(part: Table, look: Mapping[str, Look]) -> str:
  starts = list(itertools.accumulate((n for _, n in part.spans), initial=0))
  names = [i for i, item in enumerate(part.bodies[0][0]) if isinstance(item, Name)]

  def cell(i: int, item: Item, tag: str) -> str:
    shown, kinds = _item(item, look)
    kinds += ["name"] * (i in names)
    kinds += ["stay"] * (not i) + ["edge"] * (i > 0 and i in starts)
    kinds += ["prose"] * (i in part.prose)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{kind}>{shown}</{tag}>"

  def row(items: Sequence[Item], tag: str = "td") -> str:
    return f"<tr>{''.join(cell(i, item, tag if i else 'th') for i, item in enumerate(items))}</tr>"

  head = row(part.head, "th")
  if part.spans:
    first = f'<th class="stay"></th><th colspan="{part.spans[0][1] - 1}"></th>'
    first = first if part.spans[0][1] > 1 else '<th class="stay"></th>'
    over = "".join(
      f'<th class="group edge" colspan="{n}">{html.escape(name)}</th>' for name, n in part.spans[1:]
    )
    head = f"<tr>{first}{over}</tr>{head}"
  bodies = "".join(f"<tbody>{''.join(map(row, body))}</tbody>" for body in part.bodies)
  kind = ' class="words"' if len(part.prose) == len(part.head) else ""
  table = (
    f'<div class="scroll"><table{kind}><thead>{head}</thead>{bodies}</table></div>{_caption(part)}'
  )
  title = html.escape(part.title)
  if part.folded:
    return f'<details class="card table"><summary>{title}</summary>{table}</details>'
  return f'<figure class="card table">{f"<h3>{title}</h3>" * bool(title)}{table}</figure>'


def _item(item: Item, look: Mapping[str, Look]) -> tuple[str, list[str]]:
  """Returns what stands in a cell of a table, and its classes."""
  if isinstance(item, Name):
    color, _, glyph = look[item.method]
    badge = f' <small class="badge">{html.escape(item.badge)}</small>' if item.badge else ""
    return f'<span style="color:{color}">{glyph}</span> {html.escape(item.method)}{badge}', []
  if isinstance(item, Entry):
    before = f"<small>{item.before} →</small> " if item.before else ""
    spread = f" <small>{item.spread}</small>" if item.spread else ""
    return f"{before}{item.value}{spread}", ["best"] * item.best + ["small"] * item.small
  return html.escape(item), []
