"""Collectives of a compiled program: which, along which mesh axes, how many bytes."""

import jax
import jax.numpy as jnp
import pytest

import tiny
from programs import program
from specialization import hlo
from specialization.collectives import talks


@pytest.mark.parametrize(
  ("where", "axes", "share"),
  [
    (("data",), ("data",), 2 * 3 / 4),
    (("model",), ("model",), 2 * 1 / 2),
    (("data", "model"), ("data", "model"), 2 * 7 / 8),
  ],
)
def test_collectives_are_told_by_mesh_axis_and_bytes(where, axes, share):
  """A sum over cut rows is an all-reduce of one row, in which a ring sends it almost twice."""
  mesh = tiny.mesh(8, data=4, model=2)
  found = program(lambda x: x.sum(0), mesh, ((64, 256), (where, None)))
  (talk,) = talks(found, mesh)
  assert (talk.kind, talk.axes, talk.is_scalar, talk.times) == ("all-reduce", axes, False, 1)
  assert talk.bytes == pytest.approx(256 * 4 * share)


def test_collectives_in_loops_count_as_often_as_they_run():
  mesh = tiny.mesh(8, fsdp=8)

  def layer(x, kernel):
    return jnp.tanh(x @ kernel), None

  found = program(
    lambda x, kernels: jax.lax.scan(layer, x, kernels)[0].sum(),
    mesh,
    ((64, 32), ("fsdp", None)),
    ((6, 32, 32), (None, "fsdp", None)),
  )
  total = {}
  for talk in talks(found, mesh):
    assert talk.axes == ("fsdp",)
    total[talk.kind] = total.get(talk.kind, 0) + talk.bytes
  assert total["all-gather"] == pytest.approx(6 * 32 * 32 * 4 * 7 / 8)
  assert [talk.bytes for talk in talks(found, mesh) if talk.is_scalar] == [4 * 2 * 7 / 8]


@pytest.mark.parametrize(
  ("groups", "axes"),
  [
    ("replica_groups=[4,2]<=[8]", ("model",)),
    ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
    ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("expert",)),
    ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b','a'}", ("expert", "fsdp")),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", ("fsdp", "model")),
    ("source_target_pairs={{0,0},{1,2},{2,1},{3,3}}", ("fsdp", "model")),
  ],
)
def test_groups_of_devices_in_every_notation(groups, axes):
  text = f"""HloModule example

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %y = f32[8]{{0}} collective-permute(%x), channel_id=3, {groups}, frontend_attributes={{}}
}}
"""
  mesh = tiny.mesh(8, expert=2, fsdp=2, model=2)
  (talk,) = talks(hlo.Program(text), mesh)
  assert talk.axes == axes
