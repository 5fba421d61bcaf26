"""The paper's claims that a study has the methods to test, and whether they hold in its numbers.

All but one are about the smallest models. Of several methods of one kind that one counts which
validation text chooses. Two rows are compared over the domains and seeds of both.
"""

import dataclasses
import math
from collections.abc import Mapping

from specialization.report import figures
from specialization.report.compare import (
  ALIKE,
  FAILS,
  HOLDS,
  UNCLEAR,
  affordable,
  champion,
  chosen,
  correlation,
  gain,
  gains,
  noise,
  perplexities,
  plain,
  verdict,
)
from specialization.report.figures import Section, Table
from specialization.report.results import Row, Study, Value, over_seeds, shared
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
_TASKS = 100  # that are looked at
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
    bare = chosen([row for row in rows if row.kind == "none"])
    others = [row for row in rows if row.kind != "none" and math.isfinite(row.macro())]
    worst = max(others, key=Row.macro, default=None)
    if bare and worst and (value := gain(worst, bare)):
      mine, its = perplexities(bare, worst)
      found.append(Value(value.mean - math.log(_FAR), value.spread))
      said.append(
        f"{count(tokens)} tokens: {bare.method} {number(mine)},"
        f" {math.exp(value.mean):.3g} times the next worst, {worst.method} {number(its)}"
      )
  if not found:
    return None
  text = "Without pretraining a model is far the worst."
  return Claim(text, verdict(found, noise(study)), _join(said))


def _fine_tuning(study: Study) -> Claim | None:
  rows = [row for row in study.rows if row.kind != "none"]
  found = [(value, row) for row in rows if (value := gain(row, row, rival_when="before"))]
  if not found:
    return None
  ends = [pick(found, key=lambda pair: pair[0].mean) for pick in (min, max)]
  said = [f"{change(v.mean)} ({r.method}, {count(r.domain_tokens)} tokens)" for v, r in ends]
  numbers = f"It changes macro perplexity by {said[0]} to {said[1]}."
  far = [Value(value.mean - math.log(_FAR), value.spread) for value, _ in found]
  return Claim("Fine-tuning is essential.", verdict(far, noise(study)), numbers)


def _importance(study: Study) -> Claim | None:
  tokens, share = study.sizes[0], study.shares[-1]
  mine = chosen(study.at(tokens, share, "importance"))
  rivals = [r for r in study.at(tokens, share) if r.kind not in ("importance", "none")]
  rival = chosen(rivals)
  if not mine or not rival or not (value := gain(mine, rival)):
    return None
  text = "With the least domain text importance sampling is the best small method."
  said = f"{count(tokens)} tokens: {_against(mine, rival)}."
  return Claim(text, verdict([value], noise(study)), said)


def _pairs(study: Study, kind: str) -> dict[tuple[int, float], tuple[Row, Row]]:
  """Returns by group the rows of a kind's champion, each with that of the plain small model."""
  names, found = (champion(study, kind), plain(study)), {}
  for group, rows in study.groups.items():
    row, rival = (next((r for r in rows if r.method == name), None) for name in names)
    if row and rival and gains(row, rival):
      found[group] = (row, rival)
  return found


def _beats(study: Study, kind: str) -> Claim | None:
  tokens, share = study.sizes[0], study.shares[-1]
  mine, rival = (chosen(study.at(tokens, share, k)) for k in (kind, "plain"))
  if not mine or not rival or not (value := gain(mine, rival)):
    return None
  text = f"With the least domain text {_NAMES[kind]} beats the plain small model."
  said = f"{count(tokens)} tokens: {_against(mine, rival)}."
  return Claim(text, verdict([value], noise(study)), said)


def _less_with_text(study: Study, kind: str) -> Claim | None:
  found, share = _pairs(study, kind), study.shares[-1]
  kept = {f"{count(n)} tokens": found[n, share] for n in study.sizes if (n, share) in found}
  text = f"The gain of {_NAMES[kind]} shrinks as domain text grows."
  return _trend(text, kept, -1, noise(study))


def _more_with_pretraining(study: Study, kind: str) -> Claim | None:
  found, tokens = _pairs(study, kind), study.sizes[0]
  kept = {percent(s): found[tokens, s] for s in study.shares if (tokens, s) in found}
  text = f"The gain of {_NAMES[kind]} grows with pretraining."
  return _trend(text, kept, 1, noise(study))


def _trend(
  text: str, pairs: Mapping[str, tuple[Row, Row]], sign: int, deviation: float
) -> Claim | None:
  """Returns whether there is a gain, and the last pair's is above (or below) the first one's.

  What grows has to be a gain in the end, and what shrinks one to begin with.
  """
  domains = shared([row for pair in pairs.values() for row in pair])
  found = {name: gains(*pair, domains) for name, pair in pairs.items()}
  seeds = set.intersection(*map(set, found.values())) if len(found) > 1 else set()
  if not seeds:
    return None
  by_seed = {name: [some[seed] for seed in sorted(seeds)] for name, some in found.items()}
  first, *_, last = by_seed.values()
  changes = [sign * (b - a) for a, b in zip(first, last, strict=True)]
  values = [over_seeds(changes), over_seeds(last if sign > 0 else first)]
  said = [f"{nats(over_seeds(runs))} with {name}" for name, runs in by_seed.items()]
  method = next(iter(pairs.values()))[0].method
  return Claim(text, verdict(values, deviation), f"{method}: {_join(said)}")


def _student(study: Study) -> Claim | None:
  pairs = _pairs(study, "distilled")
  kept = [pair for (_, share), pair in pairs.items() if share == study.shares[-1]]
  if not kept:
    return None
  text = "Distillation beats the plain small model if the teacher comes free."
  said = [f"{count(pair[0].domain_tokens)} tokens: {_against(*pair)}" for pair in kept]
  values = [value for pair in kept if (value := gain(*pair))]
  return Claim(text, verdict(values, noise(study)), _join(said))


def _total(study: Study) -> Claim | None:
  """Compares with the best small model that costs no more, teacher included.

  One that costs less and is better tells; one that costs less and is worse does not.
  """
  found, said = [], []
  for tokens in study.sizes:
    mine = chosen(study.at(tokens, study.shares[-1], "distilled"))
    if mine is None:
      continue
    rows = [row for share in study.shares for row in study.at(tokens, share)]
    rows = [row for row in rows if row.kind not in ("distilled", "none")]
    rival = chosen(affordable(rows, mine.tasks(1), 1))
    if rival and (value := gain(rival, mine)):
      part = rival.tasks(1) / mine.tasks(1)
      tells = value.mean > 0 or ALIKE * part >= 1
      found.append(value if tells else Value(math.nan, value.spread))
      said.append(
        f"{count(tokens)} tokens: {_against(rival, mine)} for {percent(part)} of its"
        f" {scientific(mine.tasks(1))} FLOPs"
      )
  if not found:
    return None
  text = "At equal total cost of one task distillation does not pay."
  return Claim(text, verdict(found, noise(study)), _join(said))


def _spread(study: Study, kind: str) -> Claim | None:
  """Correlates gain and entropy over domains, of which there are few: that is chance as well."""
  pair = _pairs(study, kind).get((study.sizes[0], study.shares[-1]))
  if not pair:
    return None
  k, entropy = entropies(study, shared(pair))
  by_domain = {domain: gains(*pair, (domain,)) for domain in entropy}
  seeds = set.intersection(*map(set, by_domain.values())) if by_domain else set()
  if len(by_domain) < _DOMAINS or not seeds:
    return None
  x = list(entropy.values())
  found = over_seeds([correlation(x, [by_domain[d][seed] for d in entropy]) for seed in seeds])
  if not math.isfinite(found.mean):
    return None
  chance = 1 / math.sqrt(len(x) - 1)
  said = verdict([Value(-found.mean, math.hypot(chance, found.spread or 0.0))], chance)
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
  """Looks for the fewest tasks with which importance sampling is worse for as much.

  That is for what the projected network's longest pretraining costs: the more tasks, the less of it
  is left to pretrain for each.
  """
  tokens, share = study.sizes[0], study.shares[-1]
  most, many = (chosen(study.at(tokens, share, kind)) for kind in ("importance", "projected"))
  if not many or not most:
    return None
  text = "Beyond some number of tasks importance sampling is worse than the projected network."
  said: list[str] = []
  for n in range(1, _TASKS + 1):
    few = chosen(affordable(study.through(most.method, tokens), many.tasks(n), n))
    value = gain(many, few) if few else None
    if few is None or value is None:
      none = f"with {plural(n, 'task')} {most.method} cannot be had for as much"
      return Claim(text, HOLDS, _join([*said[-1:], none]))
    line = f"with {plural(n, 'task')} {_against(many, few)} at {percent(few.share)} of pretraining"
    said = [*said[-1:], line]
    if value.mean > 0:
      return Claim(text, verdict([value], noise(study)), _join(said))
  return Claim(text, FAILS, f"Not up to {_TASKS} tasks: {_join(said[-1:])}")


def _against(row: Row, rival: Row) -> str:
  """Returns both perplexities, and the gain."""
  value, (mine, its) = gain(row, rival), perplexities(row, rival)
  said = f" ({change(value.mean)}, {nats(value)} nats)" if value else ""
  return f"{row.method} {number(mine)} against {rival.method} {number(its)}{said}"


def _join(said: list[str]) -> str:
  return f"{'; '.join(said)}."
