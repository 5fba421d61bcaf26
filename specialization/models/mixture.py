"""Hard mixture (SLM-mix): one independent transformer per cluster (arXiv 2402.01093)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialization import budgets
from specialization.models.family import Family, layer_axis
from specialization.models.transformer import Params, Transformer
from specialization.strict import parse


@dataclass(frozen=True)
class Options:
  """None."""


class Mixture(Family):
  """K transformers stacked on the `expert` axis; materialize averages them by the mixture."""

  def __init__(self, transformer: Transformer, clusters: int, options: Mapping[str, Any]):
    parse(Options, options, "options of the mixture family")
    self.transformer = transformer
    self.clusters = clusters
    self.group_axes = jax.tree.map_with_path(
      lambda path, _: layer_axis(path), transformer.abstract()[0]
    )

  def init(self, key: Array) -> Params:
    keys = jax.random.split(key, self.clusters)
    return jax.vmap(self.transformer.initialize, out_axes=self.group_axes)(keys)

  def axes(self) -> Any:
    return jax.tree.map(
      lambda axes, at: (*axes[:at], "expert", *axes[at:]),
      self.transformer.abstract()[1],
      self.group_axes,
      is_leaf=lambda leaf: isinstance(leaf, tuple),
    )

  def materialize(self, params: Params, mixture: Float[Array, "c"]) -> Params:
    return jax.tree.map(
      lambda leaf, at: jnp.tensordot(mixture, leaf, axes=(0, at)), params, self.group_axes
    )

  def experts(self, params: Params, clusters: Int[Array, "g"] | None) -> Params:
    if clusters is None:
      return params
    return jax.tree.map(lambda leaf, at: jnp.take(leaf, clusters, axis=at), params, self.group_axes)

  def branch(self, params: Params) -> Params:
    """Copies the transformer for each expert (c-BTM, arXiv 2303.14177)."""
    return jax.tree.map(
      lambda leaf, at: jnp.repeat(jnp.expand_dims(leaf, at), self.clusters, at),
      params,
      self.group_axes,
    )

  def parameters(self) -> int:
    return self.clusters * budgets.parameters(self.transformer.config, self.transformer.vocab_size)

  def materialize_flops(self) -> int:
    return 0
