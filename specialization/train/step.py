"""One training step of any family, as one compiled function."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from specialization import sharding
from specialization.errors import UserError
from specialization.models.family import Family
from specialization.sharding import AnyMesh
from specialization.train.state import TrainState

Batch = dict[str, Array]
Loss = Callable[..., tuple[Array, Array]]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]

# Kernels that lie over devices are gathered beside the products before. By itself XLA does so on a
# v5e alone, waits for them elsewhere, and cuts such products into loops around the devices' ring
# that add to a result in main memory in each turn.
_TPU_OPTIONS = {
  "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
  "xla_enable_async_all_gather": "true",
  "xla_tpu_prefer_async_allgather_to_allreduce": "true",
}
_SPARSE_CORES = {"xla_tpu_enable_sparse_core_collective_offload_all_gather": "true"}
_GATHER = {  # beside the products, by chips: libtpu does it in one way for each
  "TPU v5 lite": {
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
  },
  "TPU v5": _SPARSE_CORES,
  "TPU v6 lite": _SPARSE_CORES,
}
_BATCH = ("tokens", "cluster", "mask")  # what else is in a batch goes to the loss


def batch_shardings(
  mesh: AnyMesh,
  groups: int,
  rows: int,
  length: int,
  extras: Mapping[str, int] = MappingProxyType({}),
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
  family: Family,
  loss: Loss,
  params: Any,
  batch: Batch,
  *,
  complete: bool,
  microbatches: int,
  group_shards: int = 1,
) -> tuple[Float[Array, ""], Float[Array, ""], Any]:
  """Returns the loss summed over tokens, their count, and the gradient of the sum.

  The experts in the batch are formed once. Microbatches are of some groups where these suffice, so
  that an expert's products stay large, then of some rows of each group.

  Args:
    family: of the parameters.
    loss: (logits, targets, mask, **extras) -> (sum, count).
    params: pretraining parameters.
    batch: tokens i32[g, b, t+1], cluster i32[g], mask bool[g, b, t], and extras [g, b, t, ...].
    complete: the batch has every cluster once, in order.
    microbatches: how many, one after the other; see `cuts`.
    group_shards: over how many devices the groups lie: each has some of a microbatch.
  """
  experts, pull_back = jax.vjp(
    lambda p: family.experts(p, None if complete else batch["cluster"]), params
  )
  g, b, _ = batch["tokens"].shape
  across, within = cuts(g, b, microbatches, group_shards)

  def of_batch(experts: Any, rows: Batch) -> tuple[Array, Array]:
    tokens = rows["tokens"]
    extras = {name: part for name, part in rows.items() if name not in _BATCH}
    logits = family.transformer.logits(experts, tokens[..., :-1])
    return loss(logits, tokens[..., 1:], rows["mask"], **extras)

  value_and_grad = jax.value_and_grad(of_batch, has_aux=True)
  rows = {name: part for name, part in batch.items() if name != "cluster"}
  if microbatches == 1:
    (nats, count), grads = value_and_grad(experts, rows)
    return nats, count, pull_back(grads)[0]

  def groups(x: Array, axis: int | None, index: Array) -> Array:
    return x if axis is None else _part(x, axis, group_shards, across, index)

  def add(total: Any, index: Array) -> tuple[Any, None]:
    group, row = index // within, index % within
    of_groups = jax.tree.map(lambda x: groups(x, 0, group), rows)
    part = jax.tree.map(lambda x: _part(x, 1, 1, within, row), of_groups)
    some = jax.tree.map(lambda x, axis: groups(x, axis, group), experts, family.group_axes)
    (nats, count), grads = value_and_grad(some, part)

    def accumulate(old: Array, new: Array, axis: int | None) -> Array:
      if axis is None:
        return old + new
      if within > 1:
        new = new + groups(old, axis, group)
      return _put(old, axis, group_shards, across, group, new)

    grads = jax.tree.map(accumulate, total[2], grads, family.group_axes)
    return (total[0] + nats, total[1] + count, grads), None

  zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, experts))
  (nats, count, grads), _ = jax.lax.scan(add, zeros, jnp.arange(microbatches))
  return nats, count, pull_back(grads)[0]


def cuts(groups: int, rows: int, microbatches: int, group_shards: int) -> tuple[int, int]:
  """Returns into how many parts the groups are cut, and the rows of each group.

  Raises:
    UserError: they do not multiply to the number of microbatches.
  """
  across = math.gcd(groups // group_shards, microbatches)
  within = microbatches // across
  if rows % within:
    raise UserError(
      f"compute.microbatches={microbatches} must divide the {groups // group_shards} groups (of"
      f" each device that has some) and then the {rows} rows of a group:"
      f" {across * math.gcd(rows, within)} would."
    )
  return across, within


def _split(x: Array, axis: int, shards: int, parts: int) -> Array:
  """Returns x with an axis of `parts` after one of `shards`, so that a part has some of each."""
  return x.reshape(*x.shape[:axis], shards, parts, -1, *x.shape[axis + 1 :])


def _part(x: Array, axis: int, shards: int, parts: int, index: Array) -> Array:
  split = _split(x, axis, shards, parts)
  part = jax.lax.dynamic_index_in_dim(split, index, axis + 1, keepdims=False)
  return part.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _put(x: Array, axis: int, shards: int, parts: int, index: Array, part: Array) -> Array:
  split = _split(x, axis, shards, parts)
  part = part.reshape(*split.shape[: axis + 1], 1, *split.shape[axis + 2 :])
  return jax.lax.dynamic_update_slice_in_dim(split, part, index, axis + 1).reshape(x.shape)


def make_step(
  family: Family,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  mesh: AnyMesh,
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
      family,
      loss,
      state.params,
      batch,
      complete=complete,
      microbatches=microbatches,
      group_shards=sharding.parts(mesh, "group"),
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
    compiler_options=_options(mesh),
  )


def _options(mesh: AnyMesh) -> dict[str, str] | None:
  device = mesh.devices.flat[0] if isinstance(mesh, Mesh) else None
  if device is None or device.platform != "tpu":
    return None
  return _TPU_OPTIONS | _GATHER.get(device.device_kind, {})
