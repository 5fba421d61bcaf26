"""What a number of tasks costs with each method, and where one becomes cheaper than another."""

from collections.abc import Sequence

from specialization.report import figures
from specialization.report.compare import crossing, gain
from specialization.report.figures import Item, Line, Lines, Name, Section, Table, entry
from specialization.report.results import Row, Study, lowest, shared
from specialization.report.sections.costs import TASKS
from specialization.report.text import change, count, number, percent, plural, scientific

_SPAN = (1.0, 2.0, 4.0, 7.0, 12.0, 20.0, 30.0, 50.0, 100.0)  # numbers of tasks in the plot


def section(study: Study) -> Section | None:
  more = f" at {percent(study.shares[-1])} of pretraining" if len(study.shares) > 1 else ""
  text = f"Model FLOPs for N tasks: generic training once, specialization N times{more}."
  text += " Clusters are left out, as in the paper, and stand beside it."
  if any(row.kind == "importance" for row in study.rows):
    text += (
      " A rival shares its pretraining between tasks, so that from some number of tasks on it is"
      " cheaper than importance sampling, which pretrains for each; its perplexity is compared with"
      " that of importance sampling."
    )
  rows = {tokens: study.groups.get((tokens, study.shares[-1]), []) for tokens in study.sizes}
  plots = [_plot(tokens, group) for tokens, group in rows.items()]
  tables = [_costs(list(rows.values())), _no_worse(study), _alike(study)]
  return figures.section("Cost by number of tasks", text, [*plots, *tables])


def _plot(tokens: int, rows: Sequence[Row]) -> Lines:
  lines = [Line(row.method, _SPAN, [row.tasks(n) for n in _SPAN]) for row in rows]
  name = f"{count(tokens)} domain tokens"
  return Lines(name, lines, "tasks", "FLOPs", y_text=scientific)


def _costs(groups: Sequence[Sequence[Row]]) -> Table:
  bodies: list[list[list[Item]]] = []
  for rows in groups:
    bodies.append([])
    for row in rows:
      books = [row.spent("flops", book) for book in ("generic", "specialization")]
      costs = [scientific(cost) for cost in (*books, *(row.tasks(n) for n in TASKS))]
      costs += [scientific(cost) if cost else "–" for cost in row.clustering("flops")]
      tokens, score = count(row.domain_tokens), entry(row.perplexity())
      bodies[-1].append([Name(row.method), tokens, score, *costs])
  names = ["generic", "each task", *(plural(n, "task") for n in TASKS)]
  return Table(
    ["Method", "Domain tokens", "Macro perplexity", *names, "generic", "each task"],
    [body for body in bodies if body],
    spans=[("", 3), ("FLOPs", len(names)), ("Clusters' FLOPs", 2)],
  )


def _rivals(study: Study, tokens: int, shares: Sequence[float]) -> list[Row]:
  """Returns the small models that share their pretraining between tasks."""
  rows = [row for share in shares for row in study.at(tokens, share)]
  return [row for row in rows if row.kind not in ("importance", "none")]


def _alike(study: Study) -> Table:
  """Returns from how many tasks on each rival with as much pretraining is cheaper."""
  bodies: list[list[list[Item]]] = []
  for tokens in study.sizes:
    share = study.shares[-1]
    few = lowest(study.at(tokens, share, "importance"))
    rivals = _rivals(study, tokens, [share])
    bodies.append([_crossing(few, many) for many in rivals] if few else [])
  return _table("At equal pretraining", [body for body in bodies if body])


def _no_worse(study: Study) -> Table:
  """Returns which rival that is no worse is the first to be cheaper, whatever its pretraining."""
  bodies: list[list[list[Item]]] = []
  for tokens in study.sizes:
    bodies.append([])
    for share in study.shares:
      few = lowest(study.at(tokens, share, "importance"))
      rivals = [r for r in _rivals(study, tokens, study.shares) if few and _is_no_worse(r, few)]
      found = [(n, many) for many in rivals if few and (n := crossing(few, many))]
      if few and found:
        bodies[-1].append(_crossing(few, min(found, key=lambda pair: pair[0])[1]))
      elif few:
        bodies[-1].append([Name(few.method), *_row(few), "none", *["–"] * 4])
  return _table("At no worse perplexity", [body for body in bodies if body])


def _is_no_worse(row: Row, rival: Row) -> bool:
  value = gain(row, rival)
  return value is not None and value.mean >= 0


def _table(title: str, bodies: Sequence[Sequence[Sequence[Item]]]) -> Table:
  return Table(
    [
      *("Importance sampling", "Domain tokens", "Pretraining", "Perplexity"),
      *("Method", "Pretraining", "Perplexity", "by FLOPs", "by hours"),
    ],
    bodies,
    title,
    spans=[("", 4), ("Rival", 3), ("Cheaper from tasks", 2)],
  )


def _row(row: Row) -> list[Item]:
  return [count(row.domain_tokens), percent(row.share), number(row.macro())]


def _crossing(few: Row, many: Row) -> list[Item]:
  at = [crossing(few, many, unit) for unit in ("flops", "device_hours")]
  domains, found = shared([few, many]), gain(many, few)
  score = number(many.macro(domains=domains)) + (f" ({change(found.mean)})" if found else "")
  return [
    *(Name(few.method), *_row(few), Name(many.method), percent(many.share), score),
    *("never" if n is None else str(n) for n in at),
  ]
