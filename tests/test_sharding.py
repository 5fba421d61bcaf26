"""The mesh and the table of logical axes."""

import jax
import numpy as np
import pytest

import tiny
from specialization import sharding
from specialization.config import MeshConfig
from specialization.errors import UserError


def test_minus_one_takes_what_is_left():
  assert dict(tiny.mesh(8, expert=2, data=-1).shape) == {
    "expert": 2,
    "data": 4,
    "fsdp": 1,
    "model": 1,
  }


@pytest.mark.parametrize(
  "sizes", [(3, 1, 1, 1), (1, 3, -1, 1), (2, 2, 1, 1), (-1, -1, 1, 1), (0, 1, 1, 1)]
)
def test_a_mesh_that_does_not_divide_is_refused(sizes):
  with pytest.raises(UserError, match=r"mesh \(expert="):
    sharding.make_mesh(MeshConfig(*sizes), jax.devices()[:8])


def test_a_parameter_that_does_not_divide_is_refused():
  of = tiny.family("dense")
  with pytest.raises(UserError, match="does not divide over mesh"):
    sharding.shardings(tiny.mesh(5, fsdp=5), of.axes(), of.shapes())


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_fsdp_leaves_at_most_two_percent_whole(name):
  of = tiny.family(name)
  mesh = tiny.mesh(8, fsdp=8)
  where = sharding.shardings(mesh, of.axes(), of.shapes())
  whole = total = 0
  for shape, place in zip(jax.tree.leaves(of.shapes()), jax.tree.leaves(where), strict=True):
    total += shape.size
    whole += shape.size if place.is_fully_replicated else 0
  assert whole <= 0.02 * total
  text = sharding.describe(mesh, of.axes(), of.shapes())
  assert f"{100 * whole / total:.1f}% of {4 * total:,} bytes" in text


def test_every_logical_axis_of_every_family_is_in_the_table():
  for name in tiny.FAMILIES:
    of = tiny.family(name)
    flat = jax.tree.leaves(of.axes(), is_leaf=lambda a: isinstance(a, tuple))
    for axes, shape in zip(flat, jax.tree.leaves(of.shapes()), strict=True):
      assert len(axes) == len(shape.shape)
      assert set(axes) <= set(sharding.RULES)


def test_experts_lie_on_the_expert_axis_alone():
  of = tiny.family("mixture")
  mesh = tiny.mesh(4, expert=4)
  where = sharding.shardings(mesh, of.axes(), of.shapes())
  for shape, place in zip(jax.tree.leaves(of.shapes()), jax.tree.leaves(where), strict=True):
    shard = np.prod(place.shard_shape(shape.shape))
    assert shard == shape.size // 4
