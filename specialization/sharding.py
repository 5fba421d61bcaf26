"""The mesh, and the one table that says on which of its axes each logical axis lies."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from specialization.config import MeshConfig
from specialization.errors import UserError

MESH_AXES = ("expert", "data", "fsdp", "model")

# Dimension letters, as in einsum strings and array annotations everywhere:
#   g groups of rows   b rows of a group   t positions   d features   h query heads   n key heads
#   k head features   f MLP hidden units   v vocabulary   l layers
#   c clusters (experts)   m cluster code   r rank of a projected kernel
RULES: dict[str | None, tuple[str, ...]] = {
  None: (),
  # Activations.
  "group": ("expert",),
  "batch": ("data", "fsdp"),
  "length": (),
  "features": (),
  # Parameters. An activation's hidden axis has the name of the kernel's that made it.
  "embed": ("fsdp",),
  "heads": ("model",),
  "mlp": ("model",),
  "vocab": ("model",),
  "expert": ("expert",),
  "layers": (),
  "norm": (),
  "basis": ("expert", "fsdp"),
  "rank": (),
  "code": (),
}

AnyMesh = Any  # a Mesh, or an AbstractMesh where nothing is to run
Devices = Sequence[jax.Device] | int | None
LogicalAxes = tuple[str | None, ...]
BATCH = ("group", "batch")  # first axes of an activation; the first one may be absent


def make_mesh(config: MeshConfig, devices: Devices = None) -> AnyMesh:
  """Returns the mesh over some devices; a size of -1 takes what the others leave.

  Args:
    config: sizes.
    devices: a number of them, of which there need be none, makes an abstract mesh; None: all.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = devices if isinstance(devices, int) else len(devices)
  types = (AxisType.Auto,) * len(MESH_AXES)
  sizes = [vars(config)[axis] for axis in MESH_AXES]
  named = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
    raise UserError(f"mesh ({named}) must have positive sizes, at most one of them -1.")
  known = math.prod(size for size in sizes if size != -1)
  if count % known or (-1 not in sizes and known != count):
    raise UserError(
      f"mesh ({named}) does not divide the {count} devices that are there: make the product"
      " of its sizes equal to that, or set one of them to -1."
    )
  shape = tuple(count // known if size == -1 else size for size in sizes)
  if isinstance(devices, int):
    return AbstractMesh(shape, MESH_AXES, axis_types=types)
  return jax.make_mesh(shape, MESH_AXES, types, devices=devices)


def on_the_host() -> AnyMesh:
  """Returns the mesh of this process's CPU, which computes products in full precision."""
  return make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices(backend="cpu")[:1])


def sizes(mesh: AnyMesh) -> str:
  """Returns the mesh in words: expert=1, data=8, ..."""
  return ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())


def spec(axes: LogicalAxes) -> PartitionSpec:
  """Returns where an array with these logical axes lies on the mesh."""
  return PartitionSpec(*(RULES[axis] or None for axis in axes))


def parts(mesh: AnyMesh, axis: str | None) -> int:
  """Returns into how many parts the mesh cuts a logical axis."""
  return math.prod(mesh.shape[a] for a in RULES[axis])


def sharding(mesh: AnyMesh, axes: LogicalAxes, shape: Sequence[int], name: str) -> NamedSharding:
  """Returns the sharding of one array.

  Raises:
    UserError: a dimension does not divide over its mesh axes (XLA would replicate it silently).
  """
  for axis, size in zip(axes, shape, strict=True):
    if size % parts(mesh, axis):
      raise UserError(
        f"{name} has {size} along {axis!r}, which does not divide over"
        f" {' x '.join(f'mesh.{a}={mesh.shape[a]}' for a in RULES[axis])}: change one of them."
      )
  return NamedSharding(mesh, spec(axes))


def shardings(mesh: AnyMesh, axes: Any, shapes: Any) -> Any:
  """Maps `sharding` over a tree of logical axes and one of shapes (ShapeDtypeStruct)."""
  return jax.tree.map_with_path(
    lambda path, leaf, a: sharding(mesh, a, leaf.shape, jax.tree_util.keystr(path)), shapes, axes
  )


def replicated(mesh: AnyMesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def on_many_devices() -> bool:
  """Whether what is traced runs on more than one device of the mesh set by `jax.set_mesh`."""
  return jax.sharding.get_abstract_mesh().size > 1


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Tells the partitioner where an activation lies, in the mesh set by `jax.set_mesh`.

  Annotating parameters alone leaves activations replicated over fsdp. Where x has fewer axes, the
  last names are its.
  """
  if not on_many_devices():
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes[-x.ndim :]))


def whole_share(mesh: AnyMesh, axes: Any, shapes: Any) -> float:
  """Returns the share of bytes that lie whole on every device."""
  total = whole = 0
  flat_axes = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
  for leaf, names in zip(jax.tree.leaves(shapes), flat_axes, strict=True):
    size = leaf.size * leaf.dtype.itemsize
    total += size
    whole += size * all(parts(mesh, name) == 1 for name in names)
  return whole / total


def describe(mesh: AnyMesh, axes: Any, shapes: Any) -> str:
  """Returns a table: parameter, shape, logical axes, mesh axes, bytes per device."""
  lines, total = [], 0
  flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
  flat_axes = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
  for (path, leaf), names in zip(flat, flat_axes, strict=True):
    pieces = math.prod(parts(mesh, name) for name in names)
    size = leaf.size * leaf.dtype.itemsize
    total += size
    lines.append(
      f"{jax.tree_util.keystr(path, simple=True, separator='/'):44} {leaf.shape!s:24}"
      f" {'x'.join(str(n) for n in names):32} {spec(names)!s:32} {size // pieces:>14,}"
    )
  share = f"{whole_share(mesh, axes, shapes):.1%} of {total:,} bytes lie whole on every device."
  return "\n".join([*lines, share])
