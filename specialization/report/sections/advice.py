"""Which method to use under which budget, from the numbers: tables and words."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

from specialization.report import figures
from specialization.report.compare import HOLDS, front, gain, noise, verdict
from specialization.report.figures import Item, Name, Section, Table
from specialization.report.results import Row, Study, lowest, ratio, shared
from specialization.report.sections.costs import TASKS
from specialization.report.text import count, listing, number, percent, plural, scientific

_LITTLE = 2.0  # times the cheapest specialization: a small budget for a domain


def words(study: Study) -> list[str]:
  """Returns paragraphs: the best small model of each domain size, by number of tasks, and so on."""
  found = [_best(study, tokens) for tokens in study.sizes]
  found += [_tasks(study, study.sizes[0]), _domain_budgets(study), _forgetting(study)]
  return [paragraph for paragraph in found if paragraph]


def section(study: Study) -> Section | None:
  text = (
    "Among the smallest models that are pretrained. Worth its cost: better by at least 1% than all"
    " that costs less; the first is the cheapest, and each is the best up to the cost of the next."
  )
  return figures.section("Which method under which budget", text, [_bests(study), _fronts(study)])


def _bests(study: Study) -> Table:
  best = {(row.domain_tokens, row.share): row for row in study.best_small}
  several, large = len(study.shares) > 1, {tokens: _large(study, tokens) for tokens in study.sizes}
  lines: list[list[Item]] = []
  for tokens in study.sizes:
    rows = [best.get((tokens, share)) for share in study.shares]
    rows += [large[tokens]] * any(large.values())
    names = [Name(row.method, number(row.macro())) if row else "–" for row in rows]
    lines.append([f"{count(tokens)} tokens", *names])
  head = [f"pretraining {percent(share)}" for share in study.shares] if several else ["small"]
  head += [f"large, {head[-1]}" if several else "large"] * any(large.values())
  return Table(["Domain text", *head], [lines] if best else [], "The best model")


def _fronts(study: Study) -> Table:
  bodies: list[list[list[Item]]] = []
  for tokens, n in itertools.product(study.sizes, TASKS):
    found, domains = _front(study, tokens, functools.partial(Row.tasks, n=n))
    bodies.append([])
    for row, cost in found:
      costs = [count(tokens), plural(n, "task"), scientific(cost)]
      score = number(row.macro(domains=domains))
      bodies[-1].append([*costs, Name(row.method), percent(row.share), score])
  return Table(
    ["Domain tokens", "Tasks", "FLOPs from", "Method", "Pretraining", "Macro perplexity"],
    [body for body in bodies if body],
    "Worth its cost",
    folded=len(study.sizes) > 1,
  )


def _front(
  study: Study, tokens: int, cost: Callable[[Row], float]
) -> tuple[list[tuple[Row, float]], tuple[str, ...]]:
  """Returns what is worth its cost among the small pretrained models, and over which domains."""
  rows = _candidates(study, tokens)
  domains = shared(rows)
  return front(rows, cost, domains) if len(rows) > 1 else [], domains


def _candidates(study: Study, tokens: int) -> list[Row]:
  """Returns the small pretrained models."""
  rows = [row for share in study.shares for row in study.at(tokens, share)]
  return [row for row in rows if row.whole and row.kind != "none"]


def _large(study: Study, tokens: int) -> Row | None:
  return lowest(study.at(tokens, study.shares[-1], small=False))


def _best(study: Study, tokens: int) -> str:
  best = [row for row in study.best_small if row.domain_tokens == tokens]
  if not best:
    return ""
  last, several = best[-1], len(study.shares) > 1
  by_method: dict[str, list[str]] = {}
  for row in best:
    where = f" at {percent(row.share)}" if several else ""
    where += _level(study, row) * (row is not last)
    by_method.setdefault(row.method, []).append(number(row.macro()) + where)
  by_method[last.method][-1] += " of pretraining" * several
  names = listing([f"{method} ({', '.join(texts)})" for method, texts in by_method.items()])
  said = f"With {count(tokens)} domain tokens the best small model is {names}."
  said += _margin(study, last)
  large = lowest(study.at(tokens, last.share, small=False))
  if large:
    change = large.macro() / last.macro() - 1
    said += (
      f" The large model {large.method} gives {number(large.macro())}, {abs(change):.1%}"
      f" {'below' if change < 0 else 'above'} it, with {count(large.parameters('inference'))}"
      f" parameters at inference in place of {count(last.parameters('inference'))}."
    )
  return said


def _level(study: Study, best: Row) -> str:
  """Returns words if the second small model may be as good."""
  second = lowest([r for r in study.at(best.domain_tokens, best.share) if r is not best])
  value = gain(best, second) if second else None
  if not second or not value or verdict([value], noise(study)).startswith(HOLDS):
    return ""
  return f", level with {second.method}"


def _margin(study: Study, best: Row) -> str:
  """Returns by how much the best small model is ahead of the second, and on how many domains."""
  rivals = [r for r in study.at(best.domain_tokens, best.share) if r is not best]
  second = lowest(rivals)
  if second is None:
    return ""
  low, high = best.macro(), second.macro()
  said = f" {best.method} is {1 - low / high:.1%} below {second.method} ({number(high)})"
  value = gain(best, second, best.common)
  if value and value.spread is not None:
    clear = verdict([value], noise(study)) == HOLDS
    said += f", {'more' if clear else 'less'} than twice the deviation between seeds"
    said += "" if clear else " and so too close to call"
  wins = [d for d in best.common if not any(row.on(d) < best.on(d) for row in rivals)]
  return f"{said}, and the best small model on {len(wins)} of {len(best.common)} domains."


def _tasks(study: Study, tokens: int) -> str:
  parts = []
  for n in TASKS:
    found, domains = _front(study, tokens, functools.partial(Row.tasks, n=n))
    if found:
      ends = [_priced(study, row, cost, domains) for row, cost in (found[0], found[-1])]
      parts.append(
        f"for {plural(n, 'task')} {ends[0]} is the cheapest and {ends[1]} the best"
        if len(found) > 1
        else f"for {plural(n, 'task')} {ends[0]} is the cheapest and the best"
      )
  if not parts:
    return ""
  return f"By total cost with {count(tokens)} domain tokens: {'; '.join(parts)}."


def _priced(study: Study, row: Row, cost: float, domains: Sequence[str]) -> str:
  share = f" at {percent(row.share)} of pretraining" if len(study.shares) > 1 else ""
  return f"{row.method}{share} ({scientific(cost)} FLOPs, {number(row.macro(domains=domains))})"


def _domain_budgets(study: Study) -> str:
  """Returns what to take where one domain may cost little, and where it may cost more."""
  parts = []
  for tokens in study.sizes:
    rows = _candidates(study, tokens)
    domains = shared(rows)
    costs = {row: row.spent("flops", "specialization") for row in rows}
    limit = _LITTLE * min(costs.values(), default=0.0)
    little = lowest([row for row in rows if costs[row] <= limit], domains)
    much = lowest(rows, domains)
    if not little or not much or len(rows) < 2:
      continue
    ends = [_priced(study, row, costs[row], domains) for row in (little, much)]
    parts.append(
      f"with {count(tokens)} tokens {ends[0]} "
      + (f"under {scientific(limit)} FLOPs, {ends[1]} above" if much is not little else "always")
    )
  return (
    f"By what may be spent on one domain, generic training aside: {'; '.join(parts)}."
    if parts
    else ""
  )


def _forgetting(study: Study) -> str:
  """Returns what fine-tuning does to generic text."""
  found = []
  for row in study.rows:
    change = ratio(row.macro("after", "generic"), row.macro("before", "generic")) - 1
    if math.isfinite(change):
      shown = f"{change:+.1%}".replace("-", "−")
      found.append((change, f"{shown} ({row.method}, {count(row.domain_tokens)} tokens)"))
  if not found:
    return ""
  ends = dict.fromkeys(text for _, text in (min(found), max(found)))
  return f"Fine-tuning changes the perplexity on generic text by {' to '.join(ends)}."
