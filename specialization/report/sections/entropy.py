"""How domains lie on the clusters, and which methods fail where they spread (arXiv 2402.01093)."""

from collections.abc import Sequence

from specialization.report import figures
from specialization.report.compare import gain, plain
from specialization.report.figures import Item, Line, Lines, Section, Table
from specialization.report.results import Study
from specialization.report.text import count, number, percent


def section(study: Study) -> Section | None:
  more = f" at {percent(study.shares[-1])} of pretraining" if len(study.shares) > 1 else ""
  text = (
    "Top: the share of a domain's documents in its most frequent cluster. Entropy: of its histogram"
    f" over the clusters, in nats. Gain: over the plain small model{more}, in nats per token."
  )
  plots = [_plot(study, tokens) for tokens in study.sizes]
  return figures.section("Clusters and domains", text, [_table(study), *plots])


def entropies(study: Study, domains: Sequence[str]) -> tuple[int, dict[str, float]]:
  """Returns the largest number of clusters, and the entropy of each domain over them in nats.

  Of the largest amount of its text: a histogram of few documents is narrow by chance.
  """
  found = {d: histograms(study, d) for d in domains}
  levels = [max(map(int, histogram)) for histogram in found.values() if histogram]
  most = max(levels, default=0)
  return most, {d: h[str(most)]["entropy"] for d, h in found.items() if str(most) in h}


def histograms(study: Study, domain: str) -> dict[str, dict[str, float]]:
  """Returns top share and entropy by number of clusters, of the most of a domain's text."""
  cells = [cell for cell in study.cells if cell.of.domain == domain]
  most = max(cells, key=lambda cell: cell.of.domain_tokens, default=None)
  return most.record["histograms"] if most else {}


def _table(study: Study) -> Table:
  found = {domain: histograms(study, domain) for domain in study.domains}
  levels = sorted({int(k) for histogram in found.values() for k in histogram})
  _, order = entropies(study, study.domains)
  lines: list[list[Item]] = []
  for domain in sorted(order, key=lambda d: order[d]):
    at = [found[domain][str(k)] for k in levels]
    shown = [text for a in at for text in (percent(a["top_share"]), number(a["entropy"]))]
    lines.append([domain, *shown])
  return Table(
    ["Domain", *["top", "entropy"] * len(levels)],
    [lines] if levels else [],
    caption=f"From the most text of each domain, up to {count(study.sizes[-1])} tokens.",
    spans=[("", 1), *((f"{k} clusters", 2) for k in levels)],
  )


def _plot(study: Study, tokens: int) -> Lines | None:
  rows = study.at(tokens, study.shares[-1])
  name = plain(study)
  base = next((row for row in rows if row.method == name), None)
  if base is None:
    return None
  k, entropy = entropies(study, study.domains)
  series = []
  for row in rows:
    if row is base or row.kind == "none":
      continue
    found = {d: gain(row, base, (d,)) for d in sorted(entropy, key=lambda d: entropy[d])}
    points = {domain: value for domain, value in found.items() if value}
    across, up = [entropy[d] for d in points], [value.mean for value in points.values()]
    error = [value.spread for value in points.values()]
    series.append(Line(row.method, across, up, error, style=""))
  return Lines(
    f"Gain over {base.method}, {count(tokens)} domain tokens",
    series,
    f"entropy over {k} clusters (nats)",
    "gain (nats per token)",
    x_text="{:.2g}".format,
    x_log=False,
    y_text="{:.2g}".format,
    zero=True,
    ticks=entropy,
  )
