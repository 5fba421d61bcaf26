"""The registry of families: one line each."""

from collections.abc import Callable, Mapping
from typing import Any

from specialization.models.dense import Dense
from specialization.models.family import Family
from specialization.models.mixture import Mixture
from specialization.models.projected import Projected
from specialization.models.transformer import Params, Transformer
from specialization.strict import one_of

FAMILIES: dict[str, Callable[[Transformer, int, Mapping[str, Any]], Family]] = {
  "dense": Dense,
  "mixture": Mixture,
  "projected": Projected,
}


def make_family(
  name: str, transformer: Transformer, clusters: int, options: Mapping[str, Any]
) -> Family:
  """Returns a family over a transformer; its file says which options it has."""
  one_of("family", name, tuple(FAMILIES))
  return FAMILIES[name](transformer, clusters, options)


__all__ = ["FAMILIES", "Family", "Params", "Transformer", "make_family"]
