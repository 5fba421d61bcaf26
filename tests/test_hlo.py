"""What is read from a compiled program: products, traffic and collectives, as often as they run."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import tiny
from specialization import hlo


def program(function, mesh, *arguments):
  """Compiles a function of arrays, each given as (shape, spec)."""
  like = [
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
    for shape, spec in arguments
  ]
  with jax.set_mesh(mesh):
    return hlo.Program(jax.jit(function).lower(*like).compile().as_text())


def test_products_in_loops_count_as_often_as_they_run():
  def inner(x, _):
    return jnp.tanh(x @ x), None

  def outer(x, _):
    return jax.lax.scan(inner, x, None, length=3)[0] @ x, None

  found = program(lambda x: jax.lax.scan(outer, x, None, length=5)[0], tiny.mesh(), ((16, 16), ()))
  assert found.flops() == 5 * (3 + 1) * 2 * 16**3


def test_a_product_that_is_cut_over_devices_counts_for_one():
  found = program(
    lambda x, y: x @ y,
    tiny.mesh(8, data=4, model=2),
    ((32, 16), ("data",)),
    ((16, 8), (None, "model")),
  )
  assert found.flops() == 2 * (32 / 4) * 16 * (8 / 2)


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
  (talk,) = found.talks(mesh)
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
  for talk in found.talks(mesh):
    assert talk.axes == ("fsdp",)
    total[talk.kind] = total.get(talk.kind, 0) + talk.bytes
  assert total["all-gather"] == pytest.approx(6 * 32 * 32 * 4 * 7 / 8)
  assert [talk.bytes for talk in found.talks(mesh) if talk.is_scalar] == [4 * 2 * 7 / 8]


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
  (talk,) = hlo.Program(text).talks(mesh)
  assert talk.axes == axes


def test_a_batch_of_products_that_a_tpu_writes_as_a_convolution():
  """Two products [4, 3] @ [3, 5]: over the batch, a window's other places fall beside its input."""
  text = """HloModule example

ENTRY %main (x: bf16[2,4,3], y: bf16[2,3,5]) -> bf16[2,4,5] {
  %x = bf16[2,4,3]{2,1,0} parameter(0)
  %y = bf16[2,3,5]{2,1,0} parameter(1)
  ROOT %z = bf16[2,4,5]{2,1,0} convolution(%x, %y), window={WINDOW}, dim_labels=0bf_0io->0bf
}
"""
  for window in ("size=2 lhs_dilate=2", "size=2 stride=2 pad=1_1 rhs_reversal=1"):
    found = hlo.Program(text.replace("WINDOW", window))
    expected = 2 * 4 * 3 * 5 * 2
    assert found.flops() == expected, window


def test_traffic_is_what_is_read_and_written_and_not_what_is_kept_near():
  text = """HloModule example

%fused (a: f32[4,8], b: s32[]) -> f32[1,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%a, %b, %zero), dynamic_slice_sizes={1,8}
}

ENTRY %main (x: f32[4,8], i: s32[]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %near = f32[4,8]{1,0:S(1)} copy(%x)
  %row = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
  %sum = f32[4,8]{1,0} add(%x, %near)
  ROOT %new = f32[4,8]{1,0} dynamic-update-slice(%sum, %row, %i, %i)
}
"""
  costs = {each.name: traffic for each, _, traffic, _ in hlo.Program(text).costs()}
  whole, row, number = 4 * 8 * 4, 8 * 4, 4
  assert costs["near"] == whole
  assert costs["row"] == 2 * row + number
  assert costs["sum"] == 2 * whole
  assert costs["new"] == 2 * row + 2 * number
  assert costs["x"] == 0


def test_a_loop_whose_end_is_not_known_is_refused():
  def loop(x):
    return jax.lax.while_loop(lambda y: y.sum() < 100, lambda y: y * 2, x)

  with pytest.raises(ValueError, match="does not count up to a constant"):
    program(loop, tiny.mesh(), ((4,), ()))
