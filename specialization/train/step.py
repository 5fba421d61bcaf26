"""One training step of any family, as one compiled function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from specialization import sharding
from specialization.models.family import Family
from specialization.train.state import TrainState

Batch = dict[str, Array]
Loss = Callable[..., tuple[Array, Array]]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]

BATCH_AXES: dict[str, sharding.LogicalAxes] = {
  "tokens": ("group", "batch", "length"),
  "cluster": ("group",),
  "mask": ("group", "batch", "length"),
}


def batch_shardings(mesh: Mesh, groups: int, rows: int, length: int) -> Any:
  """Returns where each part of a batch of groups x rows x length targets lies."""
  shapes = {
    "tokens": (groups, rows, length + 1),
    "cluster": (groups,),
    "mask": (groups, rows, length),
  }
  return {
    name: sharding.sharding(mesh, axes, shapes[name], "the batch")
    for name, axes in BATCH_AXES.items()
  }


def loss_and_grads(
  family: Family, loss: Loss, params: Any, batch: Batch, *, complete: bool, microbatches: int
) -> tuple[Float[Array, ""], Float[Array, ""], Any]:
  """Returns the loss summed over tokens, their count, and the gradient of the sum.

  The experts in the batch are formed once, however many microbatches the rows are cut into.

  Args:
    family: of the parameters.
    loss: (logits, targets, mask) -> (sum, count).
    params: pretraining parameters.
    batch: tokens i32[g, b, t+1], cluster i32[g], mask bool[g, b, t].
    complete: the batch has every cluster once, in order.
    microbatches: divides b.
  """
  experts, pull_back = jax.vjp(
    lambda p: family.experts(p, None if complete else batch["cluster"]), params
  )

  def of_group(transformer: Any, tokens: Array, mask: Array) -> tuple[Array, Array]:
    return loss(family.transformer.logits(transformer, tokens[:, :-1]), tokens[:, 1:], mask)

  def of_batch(experts: Any, tokens: Array, mask: Array) -> tuple[Array, Array]:
    nats, count = jax.vmap(of_group, in_axes=(family.group_axes, 0, 0), spmd_axis_name="expert")(
      experts, tokens, mask
    )
    return nats.sum(), count.sum()

  value_and_grad = jax.value_and_grad(of_batch, has_aux=True)
  if microbatches == 1:
    (nats, count), grads = value_and_grad(experts, batch["tokens"], batch["mask"])
  else:

    def cut(x: Array) -> Array:
      g, b, *rest = x.shape
      return x.reshape(g, microbatches, b // microbatches, *rest).swapaxes(0, 1)

    def add(total: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
      (nats, count), grads = value_and_grad(experts, *part)
      return jax.tree.map(jnp.add, total, (nats, count, grads)), None

    zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, experts))
    parts = (cut(batch["tokens"]), cut(batch["mask"]))
    (nats, count, grads), _ = jax.lax.scan(add, zeros, parts)
  return nats, count, pull_back(grads)[0]


def make_step(
  family: Family,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  like: TrainState,
  where_batch: Any,
  *,
  complete: bool,
  microbatches: int,
) -> Step:
  """Returns (state, batch) -> (state, metrics), jitted over the mesh; the state is donated.

  The loss is divided once, by the number of tokens of the whole batch.
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    nats, count, grads = loss_and_grads(
      family, loss, state.params, batch, complete=complete, microbatches=microbatches
    )
    count = jnp.maximum(count, 1.0)
    grads = jax.tree.map(lambda g: g / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": nats / count, "tokens": count, "grad_norm": optax.global_norm(grads)}
    return TrainState(state.step + 1, params, opt_state), metrics

  where = jax.tree.map(lambda leaf: leaf.sharding, like)
  return jax.jit(
    step,
    in_shardings=(where, where_batch),
    out_shardings=(where, sharding.replicated(mesh)),
    donate_argnums=0,
  )
