"""Collectives of a compiled program: which, along which mesh axes, how many bytes."""

import itertools

import jax
import jax.numpy as jnp
import pytest

import tiny
from programs import program
from specialization import collectives, hlo
from specialization.budgets import Links
from specialization.collectives import Talk, talks


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


V5E, V5P = Links(90.0, 2, 16), Links(180.0, 3, 4)


def box(*sides):
  return list(itertools.product(*map(range, sides)))


@pytest.mark.parametrize(
  ("links", "sides", "kind", "seconds"),
  [
    (V5E, (16, 16), "all-gather", 900 / (90 + 90)),  # two rings
    (V5E, (4, 4), "all-gather", 900 / (45 + 45)),  # two lines
    (V5E, (4, 1), "all-gather", 900 / 45),
    (V5E, (4, 4), "collective-permute", 900 / 90),
    (V5P, (4, 4, 4), "all-reduce", 900 / (3 * 180)),
    (V5P, (2, 2, 4), "all-reduce", 900 / (3 * 90)),  # no cube, so that no side is closed
    # Each chip of one half sends half of what it has to say over the one link in the middle.
    (V5E, (8, 1), "all-to-all", 4 * 450 / 45),
    (V5E, (2, 1), "all-to-all", 900 / 45),
  ],
)
def test_a_collective_takes_what_the_links_between_its_chips_take(links, sides, kind, seconds):
  where = [(*at, 0)[:3] for at in box(*sides)]
  talk = Talk(kind, ("fsdp",), False, 900.0, 1, tuple(range(len(where))))
  assert collectives.seconds(talk, where, links) == pytest.approx(seconds)
