"""The paper's claims that a study has the methods to test, and whether they hold in its numbers.

All but one are about the smallest models. Where several methods are of one kind, its gain over the
plain model is that of the one that validation text chooses.
"""

import dataclasses
import math
from collections.abc import Mapping

from specialization.report import figures
from specialization.report.compare import (
  FAILS,
  HOLDS,
  UNCLEAR,
  champion,
  correlation,
  crossing,
  difference,
  gain,
  gains,
  plain,
  verdict,
)
from specialization.report.figures import Section, Table
from specialization.report.results import Row, Study, Value, lowest, over_seeds, shared
from specialization.report.sections.entropy import entropies
from specialization.report.text import (
  change,
  count,
  nats,
  number,
  percent,
  plural,
  scientific,
  signed,
)

_FAR = 1.1  # times the next worst perplexity
_DOMAINS = 5  # at least, for a correlation over them to say anything
_NAMES = {"projected": "the projected network", "mixture": "the hard mixture"}
_SIGNS = {HOLDS: "✓", FAILS: "✗", UNCLEAR: "≈"}


@dataclasses.dataclass(frozen=True)
class Claim:
  text: str
  verdict: str
  numbers: str


def claims(study: Study) -> list[Claim]:
  """Returns those that can be tested."""
  found = [_unpretrained(study), _fine_tuning(study), _importance(study)]
  for kind in _NAMES:
    found += [test(study, kind) for test in (_beats, _less_with_text, _more_with_pretraining)]
  found += [_student(study), _total(study), *(_spread(study, kind) for kind in _NAMES)]
  return [claim for claim in [*found, _tasks(study)] if claim is not None]


def section(study: Study) -> Section | None:
  text = (
    "Whether they hold here, for what this study has the methods to test. Gains are in nats per"
    " token, positive where perplexity is lower."
  )
  lines = [
    [claim.text, f"{_SIGNS[claim.verdict.partition(' (')[0]]} {claim.verdict}", claim.numbers]
    for claim in claims(study)
  ]
  bodies = [lines] if lines else []
  table = Table(["The paper says", "Here", "By these numbers"], bodies, prose=(0, 1, 2))
  return figures.section("The paper's claims", text, [table])


def _unpretrained(study: Study) -> Claim | None:
  found, said = [], []
  for tokens in study.sizes:
    rows = study.at(tokens, study.shares[-1])
    bare = lowest([row for row in rows if row.kind == "none"])
    others = [row for row in rows if row.kind != "none" and math.isfinite(row.macro())]
    worst = max(others, key=Row.macro, default=None)
    if bare and worst and (value := gain(worst, bare)):
      domains = shared([bare, worst])
      found.append(Value(value.mean - math.log(_FAR), value.spread))
      said.append(
        f"{count(tokens)} tokens: {bare.method} {number(bare.macro(domains=domains))},"
        f" {math.exp(value.mean):.3g} times the next worst, {worst.method}"
        f" {number(worst.macro(domains=domains))}"
      )
  if not found:
    return None
  return Claim("Without pretraining a model is far the worst.", verdict(found), _join(said))


def _fine_tuning(study: Study) -> Claim | None:
  rows = [row for row in study.rows if row.kind != "none"]
  found = [(value, row) for row in rows if (value := gain(row, row, rival_when="before"))]
  if not found:
    return None
  ends = [pick(found, key=lambda pair: pair[0].mean) for pick in (min, max)]
  said = [f"{change(v.mean)} ({r.method}, {count(r.domain_tokens)} tokens)" for v, r in ends]
  numbers = f"It changes macro perplexity by {said[0]} to {said[1]}."
  return Claim("Fine-tuning is essential.", verdict([value for value, _ in found]), numbers)


def _importance(study: Study) -> Claim | None:
  tokens, share = study.sizes[0], study.shares[-1]
  mine = lowest(study.at(tokens, share, "importance"))
  rows = study.at(tokens, share)
  rival = lowest([r for r in rows if r.kind not in ("importance", "none")])
  if not mine or not rival or not (value := gain(mine, rival)):
    return None
  text = "With the least domain text importance sampling is the best small method."
  return Claim(text, verdict([value]), f"{count(tokens)} tokens: {_against(mine, rival)}.")


def _pairs(study: Study, kind: str) -> dict[tuple[int, float], tuple[Row, Row]]:
  """Returns by group the rows of a kind's champion, each with that of the plain small model."""
  names, found = (champion(study, kind), plain(study)), {}
  for group, rows in study.groups.items():
    row, rival = (next((r for r in rows if r.method == name), None) for name in names)
    if row and rival and gains(row, rival):
      found[group] = (row, rival)
  return found


def _beats(study: Study, kind: str) -> Claim | None:
  tokens = study.sizes[0]
  pair = _pairs(study, kind).get((tokens, study.shares[-1]))
  if not pair or not (value := gain(*pair)):
    return None
  text = f"With the least domain text {_NAMES[kind]} beats the plain small model."
  return Claim(text, verdict([value]), f"{count(tokens)} tokens: {_against(*pair)}.")


def _less_with_text(study: Study, kind: str) -> Claim | None:
  pairs = _pairs(study, kind)
  kept = {tokens: pairs.get((tokens, study.shares[-1])) for tokens in study.sizes}
  text = f"The gain of {_NAMES[kind]} shrinks as domain text grows."
  return _trend(text, {f"{count(n)} tokens": pair for n, pair in kept.items() if pair}, -1)


def _more_with_pretraining(study: Study, kind: str) -> Claim | None:
  pairs = _pairs(study, kind)
  kept = {share: pairs.get((study.sizes[0], share)) for share in study.shares}
  text = f"The gain of {_NAMES[kind]} grows with pretraining."
  return _trend(text, {percent(s): pair for s, pair in kept.items() if pair}, 1)


def _trend(text: str, pairs: Mapping[str, tuple[Row, Row]], sign: int) -> Claim | None:
  """Returns whether the gain of the last pair over that of the first has a sign.

  What shrinks has to be a gain to begin with.
  """
  domains = shared([row for pair in pairs.values() for row in pair])
  found = {name: gains(*pair, domains) for name, pair in pairs.items()}
  found = {name: by_seed for name, by_seed in found.items() if by_seed}
  if len(found) < 2:
    return None
  first, *_, last = found.values()
  value = difference(last, first) if sign > 0 else difference(first, last)
  if value is None:
    return None
  values = [value] if sign > 0 else [value, over_seeds(list(first.values()))]
  said = [f"{nats(over_seeds(list(g.values())))} with {name}" for name, g in found.items()]
  return Claim(text, verdict(values), f"{next(iter(pairs.values()))[0].method}: {_join(said)}")


def _student(study: Study) -> Claim | None:
  pairs = _pairs(study, "distilled")
  kept = [pair for (_, share), pair in pairs.items() if share == study.shares[-1]]
  if not kept:
    return None
  text = "Distillation beats the plain small model if the teacher comes free."
  said = [f"{count(pair[0].domain_tokens)} tokens: {_against(*pair)}" for pair in kept]
  return Claim(text, verdict([v for pair in kept if (v := gain(*pair))]), _join(said))


def _total(study: Study) -> Claim | None:
  """Compares with the best small model that costs no more, teacher included."""
  found, said = [], []
  for tokens in study.sizes:
    mine = lowest(study.at(tokens, study.shares[-1], "distilled"))
    if mine is None:
      continue
    rows = [row for share in study.shares for row in study.at(tokens, share)]
    rows = [row for row in rows if row.whole and row.kind not in ("distilled", "none")]
    rows = [row for row in rows if row.tasks(1) <= mine.tasks(1)]
    rival = lowest(rows, shared([mine, *rows]))
    if rival and (value := gain(rival, mine)):
      found.append(value)
      costs = " and ".join(scientific(row.tasks(1)) for row in (rival, mine))
      said.append(f"{count(tokens)} tokens: {_against(rival, mine)} for {costs} FLOPs")
  if not found:
    return None
  text = "At equal total cost of one task distillation does not pay."
  return Claim(text, verdict(found), _join(said))


def _spread(study: Study, kind: str) -> Claim | None:
  """Correlates gain and entropy over domains, of which there are few: that is chance as well."""
  tokens = study.sizes[0]
  pair = _pairs(study, kind).get((tokens, study.shares[-1]))
  if not pair:
    return None
  k, entropy = entropies(study, tokens, shared(pair))
  by_domain = {domain: gains(*pair, (domain,)) for domain in entropy}
  seeds = set.intersection(*map(set, by_domain.values())) if by_domain else set()
  if len(by_domain) < _DOMAINS or not seeds:
    return None
  x = list(entropy.values())
  found = over_seeds([correlation(x, [by_domain[d][seed] for d in entropy]) for seed in seeds])
  if not math.isfinite(found.mean):
    return None
  chance = 1 / math.sqrt(len(x) - 1)
  said = verdict([Value(-found.mean, math.hypot(chance, found.spread or 0.0))])
  order = sorted(entropy, key=lambda d: entropy[d])
  ends = [
    f"{nats(over_seeds(list(by_domain[d].values())))} on {d} ({number(entropy[d])} nats)"
    for d in (order[0], order[-1])
  ]
  return Claim(
    f"{_NAMES[kind].capitalize()} fails on domains that spread over many clusters.",
    said + " (one seed)" * (len(seeds) == 1),
    f"Rank correlation of gain and entropy over {k} clusters: {signed(found.mean, 2)} over {len(x)}"
    f" domains, by chance within ±{2 * chance:.2f}; {pair[0].method} {_join(ends)}",
  )


def _tasks(study: Study) -> Claim | None:
  found, said = [], []
  for tokens in study.sizes:
    few = lowest(study.at(tokens, study.shares[-1], "importance"))
    rivals = study.at(tokens, study.shares[-1], "projected")
    many = min(rivals, key=lambda row: row.spent("flops", "specialization"), default=None)
    if few and many:
      found.append(crossing(few, many))
      when = "never" if found[-1] is None else f"from {plural(found[-1], 'task')} on"
      said.append(f"{when} with {count(tokens)} tokens ({few.method} against {many.method})")
  if not found:
    return None
  text = "Beyond some number of tasks importance sampling costs more than the projected network."
  return Claim(text, FAILS if None in found else HOLDS, f"By model FLOPs: {_join(said)}")


def _against(row: Row, rival: Row) -> str:
  """Returns both perplexities over the domains of both, and the gain."""
  domains, value = shared([row, rival]), gain(row, rival)
  said = f" ({change(value.mean)}, {nats(value)} nats)" if value else ""
  mine, its = (number(r.macro(domains=domains)) for r in (row, rival))
  return f"{row.method} {mine} against {rival.method} {its}{said}"


def _join(said: list[str]) -> str:
  return f"{'; '.join(said)}."
