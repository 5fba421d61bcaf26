"""One training step of any family, as one compiled function."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
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

_BATCH = ("tokens", "cluster", "mask")  # what else is in a batch goes to the loss


def batch_shardings(
  mesh: Mesh, groups: int, rows: int, length: int, extras: Mapping[str, int] = MappingProxyType({})
) -> Any:
  """Returns where each part of a batch of groups x rows x length targets lies.

  Args:
    mesh, groups, rows, length: of the batch.
    extras: for each further part, which is for the loss, its numbers per target.
  """
  axes = ("group", "batch", "length")
  shapes = {"tokens": (groups, rows, length + 1), "mask": (groups, rows, length)}
  where = {
    name: sharding.sharding(mesh, axes, shape, "the batch") for name, shape in shapes.items()
  }
  where |= {
    name: sharding.sharding(mesh, (*axes, None), (groups, rows, length, size), "the batch")
    for name, size in extras.items()
  }
  return where | {"cluster": sharding.sharding(mesh, ("group",), (groups,), "the batch")}


def loss_and_grads(
  family: Family, loss: Loss, params: Any, batch: Batch, *, complete: bool, microbatches: int
) -> tuple[Float[Array, ""], Float[Array, ""], Any]:
  """Returns the loss summed over tokens, their count, and the gradient of the sum.

  The experts in the batch are formed once, however many microbatches the rows are cut into.

  Args:
    family: of the parameters.
    loss: (logits, targets, mask, **extras) -> (sum, count).
    params: pretraining parameters.
    batch: tokens i32[g, b, t+1], cluster i32[g], mask bool[g, b, t], and extras [g, b, t, ...].
    complete: the batch has every cluster once, in order.
    microbatches: divides b.
  """
  experts, pull_back = jax.vjp(
    lambda p: family.experts(p, None if complete else batch["cluster"]), params
  )

  def of_batch(experts: Any, rows: Batch) -> tuple[Array, Array]:
    tokens = rows["tokens"]
    extras = {name: part for name, part in rows.items() if name not in _BATCH}
    logits = family.transformer.logits(experts, tokens[..., :-1])
    return loss(logits, tokens[..., 1:], rows["mask"], **extras)

  value_and_grad = jax.value_and_grad(of_batch, has_aux=True)
  rows = {name: part for name, part in batch.items() if name != "cluster"}
  if microbatches == 1:
    (nats, count), grads = value_and_grad(experts, rows)
  else:

    def cut(x: Array) -> Array:
      g, b, *rest = x.shape
      return x.reshape(g, microbatches, b // microbatches, *rest).swapaxes(0, 1)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
      (nats, count), grads = value_and_grad(experts, part)
      return jax.tree.map(jnp.add, total, (nats, count, grads)), None

    zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, experts))
    (nats, count, grads), _ = jax.lax.scan(add, zeros, jax.tree.map(cut, rows))
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
