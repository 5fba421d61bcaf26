"""Optimizers: schedules, clipping, weight decay and learning rates by parameter name."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from specialization.errors import UserError
from specialization.method import OptimizerConfig

Schedule = Callable[[Any], Any]


def schedule(
  config: OptimizerConfig, steps: int, factor: float = 1.0, longest: int = 0
) -> Schedule:
  """Returns the learning rate of each step: linear warm-up, then constant, cosine or WSD.

  Args:
    config: which schedule.
    steps: its length.
    factor: of the learning rate.
    longest: steps of the longest run, whose warm-up this one shares; 0: of this one.
  """
  peak = config.learning_rate * factor
  final = peak * config.final_share
  warmup = round((longest or steps) * config.warmup_share)
  rest = max(steps - warmup, 1)
  if config.schedule == "constant":
    after = optax.constant_schedule(peak)
  elif config.schedule == "cosine":
    after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_share)
  else:
    cooldown = min(round(steps * config.cooldown_share), rest)
    decay = optax.linear_schedule(peak, final, max(cooldown, 1))
    after = optax.join_schedules([optax.constant_schedule(peak), decay], [rest - cooldown])
  # One step past zero: the first update should move something.
  ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
  return optax.join_schedules([ramp, after], [warmup])


def shared_steps(config: OptimizerConfig, steps: int) -> int:
  """Returns how many first steps a run has in common with every longer one with its warm-up."""
  own = {"constant": 0.0, "wsd": config.cooldown_share, "cosine": 1.0}
  return steps - round(steps * own[config.schedule])


def names(tree: Any) -> Any:
  """Returns a tree of parameter names such as "layers/mlp/gate/kernel"."""
  return jax.tree.map_with_path(
    lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), tree
  )


def by_name(patterns: Sequence[tuple[str, float]], tree: Any, what: str) -> Any:
  """Returns the value of the first pattern that matches each parameter's whole name.

  Raises:
    UserError: a parameter that no pattern matches.
  """

  def value(name: str) -> float:
    for pattern, number in patterns:
      if re.fullmatch(pattern, name):
        return number
    raise UserError(f"No pattern of optimizer.{what} matches parameter {name!r}: add one for it.")

  return jax.tree.map(value, names(tree))


def clip(max_norm: float, axes: Any) -> optax.GradientTransformation:
  """Clips the gradient's global norm, for every expert of a hard mixture on its own.

  Experts (parameters with an `expert` axis) must not feel each other through a common norm. A loss
  averaged over the tokens of all K experts gives each a gradient K times too small; here it is made
  the gradient of the expert's own mean loss again.

  Args:
    max_norm: 0 leaves the norm as it is.
    axes: the parameters' logical axes.
  """

  def update(grads: Any, params: Any = None) -> Any:
    del params
    flat = jax.tree.leaves(grads)
    named = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
    at = [a.index("expert") if "expert" in a else None for a in named]
    flat = [g if i is None else g * g.shape[i] for g, i in zip(flat, at, strict=True)]
    if max_norm:
      scale = jnp.minimum(1.0, max_norm / (_norm(flat, at) + 1e-12))
      flat = [g * _along(scale, g.ndim, i) for g, i in zip(flat, at, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(grads), flat)

  return optax.stateless(update)


def _norm(grads: Sequence[Array], at: Sequence[int | None]) -> Float[Array, "*c"]:
  total: Array = jnp.zeros(())
  for grad, index in zip(grads, at, strict=True):
    total = total + jnp.sum(grad * grad, axis=[a for a in range(grad.ndim) if a != index])
  return jnp.sqrt(total)


def _along(scale: Float[Array, "*c"], ndim: int, at: int | None) -> Float[Array, "..."]:
  if scale.ndim == 0 or at is None:
    return scale if scale.ndim == 0 else jnp.min(scale)
  return scale.reshape([-1 if axis == at else 1 for axis in range(ndim)])


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
  """Muon for stacked kernels and bases, Adam for all else (arXiv 2502.16982, section 2.2).

  Orthogonal updates are scaled to the root mean square that Adam's have, so that one learning rate
  and one weight decay serve both.
  """

  def dimensions(params: Any) -> Any:
    # Other optimizers' parameters are masked out of this tree: every leaf is a stack of matrices.
    return jax.tree.map(
      lambda leaf: optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1), params
    )

  def match_adam(updates: Any, params: Any = None) -> Any:
    del params
    return jax.tree.map(lambda u: 0.2 * max(u.shape[-2:]) ** 0.5 * u, updates)

  orthogonal = optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions)
  return optax.partition(
    {
      "muon": optax.chain(orthogonal, optax.stateless(match_adam)),
      "adam": optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
    },
    lambda params: jax.tree.map(
      lambda name: "muon" if name.endswith(("kernel", "basis")) else "adam", names(params)
    ),
  )


def make_optimizer(
  config: OptimizerConfig,
  steps: int,
  params: Any,
  axes: Any,
  factor: float = 1.0,
  longest: int = 0,
) -> optax.GradientTransformation:
  """Returns clipping, AdamW or Muon, decoupled decay and the schedule, chained.

  Args:
    config: which and how.
    steps: length of the schedule.
    params: parameters or their shapes.
    axes: their logical axes.
    factor: of the learning rate, as a fine-tuning recipe sets it.
    longest: see `schedule`.
  """
  decay = by_name(config.decay, params, "decay")
  rates = by_name(config.learning_rates, params, "learning_rates")
  if config.name == "muon":
    direction = _muon(config)
  else:
    direction = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon)

  def add_decay(updates: Any, params: Any = None) -> Any:
    return jax.tree.map(
      lambda u, p, share, rate: rate * (u + config.weight_decay * share * p),
      updates,
      params,
      decay,
      rates,
    )

  return optax.chain(
    clip(config.clip_norm, axes),
    direction,
    optax.stateless(add_decay),
    optax.scale_by_learning_rate(schedule(config, steps, factor, longest)),
  )
