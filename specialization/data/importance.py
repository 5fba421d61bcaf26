"""Importance sampling by clusters: generic text is drawn as a domain's text falls on the clusters.

Under P(x | c, domain) = P(x | c) a domain's loss is that of generic text weighted by
w(x) = P(c(x) | domain) / P(c(x) | generic), and resampling the clusters by P(c | domain) has it in
expectation (arXiv 2402.01093). K is the number of clusters.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64


def smooth(
  counts: Int64[np.ndarray, "K"], generic: Float64[np.ndarray, "K"], smoothing: float
) -> Float64[np.ndarray, "K"]:
  """Returns P(c | domain): its documents' counts plus `smoothing` documents of generic text.

  Smoothing toward the generic histogram, and not toward a uniform one, makes a domain without any
  document generic text again.
  """
  return (counts + smoothing * generic) / (counts.sum() + smoothing)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """What a resample will look like, before any training.

  Attributes:
    clusters: K.
    documents: of the domain that were counted.
    effective_rows: (sum w)^2 / sum w^2 over the generic rows: how many of equal weight would serve
      an estimate as well.
    generic_rows: all of them.
    repeats: for each cluster, how often the run goes through its rows.
    repeated: share of the run's rows that come from clusters gone through more often than allowed.
    kl: KL(domain || resample) in nats, of the unsmoothed histogram.
    kl_generic: KL(domain || generic), the same without resampling; infinite where the domain has
      documents in a cluster without rows.
    entropy: of the domain's histogram, in nats.
    top_share: of its most frequent cluster.
  """

  clusters: int
  documents: int
  effective_rows: float
  generic_rows: int
  repeats: tuple[float, ...]
  repeated: float
  kl: float
  kl_generic: float
  entropy: float
  top_share: float

  def record(self) -> dict[str, Any]:
    """Returns it for a result's JSON, with the largest number of repeats for all of them."""
    fields = dataclasses.asdict(self)
    del fields["repeats"]
    return fields | {"most_repeats": max(self.repeats)}


def diagnose(
  counts: Int64[np.ndarray, "K"],
  distribution: Float64[np.ndarray, "K"],
  rows: Int64[np.ndarray, "K"],
  drawn_rows: int,
  most_repeats: float,
) -> Diagnosis:
  """Returns what drawing `drawn_rows` rows from a distribution over clusters will do.

  Args:
    counts: documents of the domain by cluster.
    distribution: to draw from; clusters without rows are left out, as `ClusterSampler` does.
    rows: generic rows of each cluster.
    drawn_rows: in all of the training.
    most_repeats: epochs over a cluster that are allowed.
  """
  kept = np.where(rows > 0, distribution, 0.0)
  kept = kept / kept.sum()
  domain, generic = counts / counts.sum(), rows / rows.sum()
  squares = np.divide(kept**2, rows, out=np.zeros(len(rows)), where=rows > 0)
  repeats = np.divide(drawn_rows * kept, rows, out=np.zeros(len(rows)), where=rows > 0)
  return Diagnosis(
    clusters=len(rows),
    documents=int(counts.sum()),
    effective_rows=float(1 / squares.sum()),
    generic_rows=int(rows.sum()),
    repeats=tuple(repeats.tolist()),
    repeated=float(kept[repeats > most_repeats].sum()),
    kl=kl(domain, kept),
    kl_generic=kl(domain, generic),
    entropy=entropy(domain),
    top_share=float(domain.max()),
  )


def kl(p: Float64[np.ndarray, "K"], q: Float64[np.ndarray, "K"]) -> float:
  """Returns KL(p || q) in nats; infinite where p has what q lacks."""
  there = p > 0
  if (q[there] == 0).any():
    return float("inf")
  return float(np.sum(p[there] * np.log(p[there] / q[there])))


def entropy(p: Float64[np.ndarray, "K"]) -> float:
  """Returns the entropy in nats."""
  return float(-np.sum(p[p > 0] * np.log(p[p > 0])))
