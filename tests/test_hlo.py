"""What is read from a compiled program: products and traffic, as often as they run."""

import jax
import jax.numpy as jnp
import pytest

import tiny
from programs import program
from specialization import hlo


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


COUNTED = """HloModule example

%body (state: (s32[], f32[4,4], s32[])) -> (s32[], f32[4,4], s32[]) {
  %state = (s32[], f32[4,4], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,4]{1,0} get-tuple-element(%state), index=1
  %by = s32[] get-tuple-element(%state), index=2
  %next = s32[] add(%i, %by)
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %all = (s32[], f32[4,4], s32[]) tuple(%next, %y, %by)
}

%condition (state: (s32[], f32[4,4], s32[])) -> pred[] {
  %state = (s32[], f32[4,4], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %end = s32[] constant(9)
  ROOT %more = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (x: f32[4,4]) -> (s32[], f32[4,4], s32[]) {
  %x = f32[4,4]{1,0} parameter(0)
  %first = s32[] constant(1)
  %stride = s32[] constant(STRIDE)
  %kept = s32[] copy(%stride)
  %begin = (s32[], f32[4,4], s32[]) tuple(%first, %x, %kept)
  ROOT %loop = (s32[], f32[4,4], s32[]) while(%begin), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(("stride", "turns"), [(1, 8), (2, 4), (3, 3)])
def test_a_loop_in_strides_that_stand_outside_of_it(stride, turns):
  found = hlo.Program(COUNTED.replace("STRIDE", str(stride)))
  assert found.flops() == turns * 2 * 4**3


def test_a_part_that_is_read_by_a_fusion_in_a_fusion():
  text = """HloModule example

%inner (a: f32[8,16], b: s32[]) -> f32[1,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,16]{1,0} dynamic-slice(%a, %b, %zero), dynamic_slice_sizes={1,16}
}

%outer (c: s32[], d: f32[8,16]) -> f32[1,16] {
  %c = s32[] parameter(0)
  %d = f32[8,16]{1,0} parameter(1)
  ROOT %part = f32[1,16]{1,0} fusion(%d, %c), kind=kLoop, calls=%inner
}

ENTRY %main (x: f32[8,16], i: s32[]) -> f32[1,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %row = f32[1,16]{1,0} fusion(%i, %x), kind=kLoop, calls=%outer
}
"""
  costs = {each.name: traffic for each, _, traffic, _ in hlo.Program(text).costs()}
  assert costs["row"] == 2 * 16 * 4 + 4


KERNEL = """HloModule example

ENTRY %main (m: s8[1,2,2], q: bf16[3,4,256,64]) -> bf16[3,4,256,64] {
  %m = s8[1,2,2]{2,1,0} parameter(0)
  %q = bf16[3,4,256,64]{3,2,1,0} parameter(1)
  %empty = bf16[3,4,256,64]{3,2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %NAME.1 = bf16[3,4,256,64]{3,2,1,0} custom-call(%m, %q, %q, %q), \
custom_call_target="tpu_custom_call"
}
"""


@pytest.mark.parametrize(("name", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_an_attention_kernel_has_the_products_of_the_pairs_that_see_each_other(name, products):
  text = KERNEL.replace("NAME", f"splash_mha_{name}_residuals").replace("\\\n", "")
  costs = {each.name: (flops, traffic) for each, flops, traffic, _ in hlo.Program(text).costs()}
  each = 3 * 4 * 256 * 64
  assert costs[f"splash_mha_{name}_residuals.1"] == (products * each * 256, 4 * 2 * each + 4)
  assert costs["empty"] == (0, 0)


def test_a_kernel_into_which_nobody_can_look_is_refused():
  text = KERNEL.replace("NAME", "secret").replace("\\\n", "")
  with pytest.raises(ValueError, match=r"What the kernel secret\.1 does is not known"):
    hlo.Program(text).flops()
