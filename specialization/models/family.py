"""A family is a pure function from pretraining parameters to the parameters of one transformer."""

import abc
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from specialization.errors import UserError
from specialization.models.transformer import Params, Transformer


class Family(abc.ABC):
  """Pretraining parameters, and `materialize`: how the small transformer comes out of them.

  Attributes:
    transformer: the small transformer; its size is the inference budget.
    clusters: K, the length of a mixture.
    group_axes: tree like the transformer's parameters: the axis along which `experts` stacks the
      groups, or None where all groups share the parameter.
  """

  transformer: Transformer
  clusters: int
  group_axes: Any

  @abc.abstractmethod
  def init(self, key: Array) -> Params:
    """Returns freshly drawn pretraining parameters."""

  @abc.abstractmethod
  def axes(self) -> Any:
    """Returns the logical axes of the pretraining parameters, a tree like `init`'s."""

  @abc.abstractmethod
  def materialize(self, params: Params, mixture: Float[Array, "c"]) -> Params:
    """Returns transformer parameters for a distribution over clusters; linear in the mixture."""

  @abc.abstractmethod
  def parameters(self) -> int:
    """Returns the number of pretraining parameters, by formula."""

  @abc.abstractmethod
  def materialize_flops(self) -> int:
    """Returns the forward FLOPs of forming one group's parameters in training, by formula."""

  def branch(self, params: Params) -> Params:
    """Returns pretraining parameters whose experts all are one trained transformer.

    Raises:
      UserError: the family has none.
    """
    name = type(self).__name__.lower()
    raise UserError(
      f"The {name} family cannot begin from another method's pretraining: set branch to ''."
    )

  def shapes(self) -> Params:
    """Returns the pretraining parameters as ShapeDtypeStructs."""
    return jax.eval_shape(self.init, jax.random.key(0))

  def experts(self, params: Params, clusters: Int[Array, "g"] | None) -> Params:
    """Returns the transformers of some clusters, stacked as `group_axes` says.

    Args:
      params: pretraining parameters.
      clusters: one cluster for each group, or None: all K in order.
    """
    one_hots = jax.nn.one_hot(
      jax.numpy.arange(self.clusters) if clusters is None else clusters, self.clusters
    )
    return jax.vmap(lambda mixture: self.materialize(params, mixture), out_axes=self.group_axes)(
      one_hots
    )


def layer_axis(path: tuple[Any, ...]) -> int:
  """Returns where groups are stacked: after the layer axis, so that a scan copies nothing."""
  return 1 if path[0].key == "layers" else 0
