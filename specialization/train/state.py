"""The training state, its shapes and where it lies on the mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from specialization import sharding
from specialization.models.family import Family
from specialization.sharding import AnyMesh


class TrainState(NamedTuple):
  """All that a step changes: arrays, or trees alike of their shapes or shardings.

  Attributes:
    step: i32[], steps done.
    params: pretraining parameters.
    opt_state: the optimizer's.
  """

  step: Any
  params: Any
  opt_state: Any


def abstract(family: Family, optimizer: optax.GradientTransformation, mesh: AnyMesh) -> TrainState:
  """Returns the state as ShapeDtypeStructs that carry their shardings.

  Optimizer moments lie where their parameters do; counts are on every device.
  """
  params = family.shapes()
  where = sharding.shardings(mesh, family.axes(), params)
  whole = sharding.replicated(mesh)
  opt_state = jax.eval_shape(optimizer.init, params)
  opt_where = optax.tree_utils.tree_map_params(
    optimizer, lambda _, s: s, opt_state, where, transform_non_params=lambda _: whole
  )
  shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
  return jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
    shapes,
    TrainState(whole, where, opt_where),
  )


def create(
  family: Family,
  optimizer: optax.GradientTransformation,
  like: TrainState,
  key: Array,
  params: Any = None,
) -> TrainState:
  """Returns the state before step 0, made on the mesh; parameters drawn from the key or given."""

  def make(key: Array, params: Any) -> TrainState:
    params = family.init(key) if params is None else params
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  where = jax.tree.map(lambda leaf: leaf.sharding, like)
  return jax.jit(make, out_shardings=where)(key, params)
