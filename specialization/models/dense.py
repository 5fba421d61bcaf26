"""Dense (SLM, LLM): the pretraining parameters are the transformer (arXiv 2402.01093)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from specialization import budgets
from specialization.errors import UserError
from specialization.models.family import Family
from specialization.models.transformer import Params, Transformer
from specialization.strict import parse


@dataclass(frozen=True)
class Options:
  """None."""


class Dense(Family):
  """materialize is the identity, whatever the mixture."""

  def __init__(self, transformer: Transformer, clusters: int, options: Mapping[str, Any]):
    parse(Options, options, "options of the dense family")
    if clusters != 1:
      raise UserError(f"The dense family has one expert, not clusters={clusters}: set clusters=1.")
    self.transformer = transformer
    self.clusters = clusters
    self.group_axes = jax.tree.map(lambda _: None, transformer.abstract()[0])

  def init(self, key: Array) -> Params:
    return self.transformer.initialize(key)

  def axes(self) -> Any:
    return self.transformer.abstract()[1]

  def materialize(self, params: Params, mixture: Float[Array, "c"]) -> Params:
    return params

  def branch(self, params: Params) -> Params:
    return params

  def parameters(self) -> int:
    return budgets.parameters(self.transformer.config, self.transformer.vocab_size)

  def materialize_flops(self) -> int:
    return 0
