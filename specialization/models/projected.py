"""Projected network (SLM-pn), a hyper-network for the MLP kernels (arXiv 2402.01093)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from specialization import budgets
from specialization.errors import UserError
from specialization.models.family import Family, layer_axis
from specialization.models.transformer import Params, Transformer
from specialization.sharding import LogicalAxes, constrain, on_many_devices
from specialization.strict import parse


@dataclass(frozen=True)
class Options:
  rank: int  # h of the paper, number of basis kernels T per kernel
  code: int  # m of the paper, length of a cluster's code E
  spread: float  # standard deviation of the experts' coefficients at initialization, around 1

  def __post_init__(self) -> None:
    if self.rank < 1 or self.code < 2:
      raise UserError(
        f"options.rank={self.rank} must be at least 1 and options.code={self.code} at least 2."
      )


class Projected(Family):
  """W_l = sum_r alpha_r T_lr / rank, with alpha = (mixture @ E) @ M_l; all else is shared.

  Each MLP kernel has its own M and T. The coefficients alpha start around 1 and T starts with
  sqrt(rank) times the dense deviation. So W starts with the dense variance, experts start `spread`
  apart, and, since Adam moves every entry of every T_r by about the learning rate, W moves by about
  the learning rate too: as a dense kernel would, and not sqrt(rank) times as fast.
  """

  def __init__(self, transformer: Transformer, clusters: int, options: Mapping[str, Any]):
    self.options = parse(Options, options, "options of the projected family")
    self.transformer = transformer
    self.clusters = clusters
    self.group_axes = jax.tree.map_with_path(
      lambda path, _: layer_axis(path) if _is_projected(path) else None, transformer.abstract()[0]
    )

  def init(self, key: Array) -> Params:
    shared_key, code_key, mixer_key, basis_key = jax.random.split(key, 4)
    o, layers = self.options, self.transformer.config.n_layers
    params = self.transformer.initialize(shared_key)
    for index, (name, kernel) in enumerate(sorted(params["layers"]["mlp"].items())):
      _, d_in, d_out = kernel["kernel"].shape
      draw = jax.random.normal(jax.random.fold_in(mixer_key, index), (layers, o.code - 1, o.rank))
      constant = jnp.ones((layers, 1, o.rank))
      deviation = (o.rank / d_in) ** 0.5
      shape = (layers, o.rank, d_in, d_out)
      params["layers"]["mlp"][name] = {
        "mixer": jnp.concatenate([constant, draw * (o.code - 1) ** -0.5], axis=1),
        "basis": deviation * jax.random.normal(jax.random.fold_in(basis_key, index), shape),
      }
    draw = jax.random.normal(code_key, (self.clusters, o.code - 1))
    params["codes"] = jnp.concatenate([jnp.ones((self.clusters, 1)), o.spread * draw], axis=1)
    return params

  def axes(self) -> Any:
    axes = self.transformer.abstract()[1]
    for name, kernel in axes["layers"]["mlp"].items():
      layer, *features = kernel["kernel"]
      axes["layers"]["mlp"][name] = {
        "mixer": (layer, "code", "rank"),
        "basis": (layer, "rank", *map(_cut, features)),
      }
    return axes | {"codes": (None, "code")}

  def materialize(self, params: Params, mixture: Float[Array, "c"]) -> Params:
    one = self._form(params, mixture[None])
    mlp = {name: {"kernel": kernel[:, 0]} for name, kernel in one.items()}
    return self._join(params, mlp)

  def experts(self, params: Params, clusters: Int[Array, "g"] | None) -> Params:
    order = jnp.arange(self.clusters) if clusters is None else clusters
    kernels = self._form(params, jax.nn.one_hot(order, self.clusters))
    axes = self.transformer.abstract()[1]["layers"]["mlp"]
    dtype = self.transformer.compute.dtype
    mlp = {n: {"kernel": _move(k, axes[n]["kernel"], dtype)} for n, k in kernels.items()}
    return self._join(params, mlp)

  def _form(self, params: Params, mixtures: Float[Array, "g c"]) -> dict[str, Array]:
    """Returns the MLP kernels [l, g, i, o] of some mixtures, each by one matrix product a layer."""
    codes, axes = mixtures @ params["codes"], self.axes()["layers"]["mlp"]

    def kernel(
      name: str, mixer: Float[Array, "l m r"], basis: Float[Array, "l r i o"]
    ) -> Float[Array, "l g i o"]:
      layers, rank, d_in, d_out = basis.shape
      alpha = jnp.einsum("gm,lmr->glr", codes, mixer) / rank
      if on_many_devices():
        is_cut_last = axes[name]["basis"][-1] == "basis"
        return jnp.einsum("glr,lrio->lgio", alpha, _laid(basis, is_cut_last))
      # A CPU multiplies matrices twice as fast as tensors of more axes.
      formed = jnp.einsum("glr,lrx->lgx", alpha, basis.reshape(layers, rank, d_in * d_out))
      return formed.reshape(layers, -1, d_in, d_out)

    return {name: kernel(name, **p) for name, p in params["layers"]["mlp"].items()}

  def _join(self, params: Params, mlp: Params) -> Params:
    shared = {name: p for name, p in params.items() if name != "codes"}
    return shared | {"layers": params["layers"] | {"mlp": mlp}}

  def parameters(self) -> int:
    model, o = self.transformer.config, self.options
    dense = budgets.parameters(model, self.transformer.vocab_size)
    bases = model.n_layers * budgets.mlp_parameters(model) * (o.rank - 1)
    mixers = model.n_layers * 3 * o.code * o.rank
    return dense + bases + mixers + self.clusters * o.code

  def materialize_flops(self) -> int:
    model, o = self.transformer.config, self.options
    kernels = 2 * o.rank * model.n_layers * budgets.mlp_parameters(model)
    return kernels + 2 * o.code * o.rank * 3 * model.n_layers + 2 * self.clusters * o.code


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _laid(basis: Float[Array, "l r i o"], is_cut_last: bool) -> Float[Array, "l r i o"]:
  """Returns the basis, whose gradient will lie in memory as TPUs lay the basis itself.

  That is with the feature axis that is not cut over devices in the lanes. Else the optimizer would
  work in the layout of the product that made the gradient, and copy all of the state.
  """
  return basis


def _laid_bwd(is_cut_last: bool, _: None, grad: Array) -> tuple[Array]:
  return (with_layout_constraint(grad, Layout((0, 1, 3, 2) if is_cut_last else (0, 1, 2, 3))),)


_laid.defvjp(lambda basis, _: (basis, None), _laid_bwd)


def _cut(axis: str | None) -> str | None:
  """Returns where a kernel's axis lies that all devices with groups have some of, in a basis."""
  return "basis" if axis == "embed" else axis


def _move(
  kernel: Float[Array, "l g i o"], axes: LogicalAxes, dtype: str
) -> Float[Array, "l g i o"]:
  """Moves kernels from where each device has its features of all groups to all of its groups.

  One all-to-all, in the precision in which layers multiply them anyway.
  """
  if not on_many_devices():
    return kernel
  layer, *features = axes
  kernel = constrain(kernel.astype(dtype), layer, None, *map(_cut, features))
  return constrain(kernel, layer, "group", *features).astype(jnp.float32)


def _is_projected(path: tuple[Any, ...]) -> bool:
  return [key.key for key in path[:2]] == ["layers", "mlp"]
