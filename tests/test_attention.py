"""Attention in every way that the config names, against the reference."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental.pallas.ops.tpu import splash_attention

import tiny
from specialization import attention
from specialization.errors import UserError


def draw(*shape, dtype="float32"):
  return [jax.random.normal(jax.random.key(i), shape, dtype) for i in range(3)]


def with_grads(attend, qkv):
  @jax.jit
  def of(*given):
    return jax.value_and_grad(lambda *x: (attend(*x) ** 2).sum(), argnums=(0, 1, 2))(*given)

  return of(*qkv)


def chosen(name):
  compute = dataclasses.replace(tiny.COMPUTE, attention=name)
  return functools.partial(attention.attend, compute=compute)


@pytest.mark.parametrize("block", [2, 4, 8, 16])
def test_blocks_equal_the_reference(block):
  qkv = draw(2, 3, 16, 8)
  blocked = with_grads(functools.partial(attention.blocked, block=block), qkv)
  chex.assert_trees_all_close(blocked, with_grads(attention.reference, qkv), rtol=2e-5, atol=2e-5)


@pytest.fixture
def interpreted(monkeypatch):
  """Runs the kernel for TPUs on a CPU, slowly."""
  make = splash_attention.make_splash_mha_single_device
  make = functools.partial(make, interpret=True)
  monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", make)


@pytest.mark.parametrize("length", [128, 384])
@pytest.mark.usefixtures("interpreted")
def test_splash_equals_the_reference(length):
  qkv = draw(3, 2, length, 16)
  expected = with_grads(attention.reference, qkv)
  chex.assert_trees_all_close(with_grads(chosen("splash"), qkv), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("interpreted")
def test_splash_on_many_devices_equals_the_reference():
  """Groups, rows and heads lie on three axes of the mesh."""
  qkv = draw(2, 4, 2, 128, 16)
  expected = with_grads(attention.reference, qkv)
  with jax.set_mesh(tiny.mesh(8, expert=2, fsdp=2, model=2)):
    found = with_grads(chosen("splash"), qkv)
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_that_a_kernel_cannot_take_go_to_the_reference():
  qkv = draw(2, 2, 24, 8)
  chex.assert_trees_all_equal(chosen("splash")(*qkv), attention.reference(*qkv))


def test_cudnn_is_asked_for_causal_attention_and_its_gradient(monkeypatch):
  """Lowered for a GPU that need not be there."""
  monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
  attend = chosen("cudnn")
  qkv = draw(3, 2, 128, 16, dtype="bfloat16")
  both = jax.jit(jax.grad(lambda *x: attend(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2)))
  text = both.trace(*qkv).lower(lowering_platforms=("cuda",)).as_text()
  assert re.findall(r"@__cudnn\$(\w+)", text) == ["fmhaSoftmax", "fmhaSoftmaxBackward"]
  assert re.findall(r"mask_type\S+ \S22(\w+)\\22", text) == ["CAUSAL"] * 2
  scales = re.findall(r"fmha_scale\S+ ([\d.]+)", text)
  assert [float(scale) for scale in scales] == [16**-0.5] * 2


@pytest.mark.parametrize(
  ("changes", "length", "platform", "words"),
  [
    ({"attention": "splash"}, 128, "cpu", "splash needs TPUs, and here is a cpu"),
    ({"attention": "cudnn"}, 128, "tpu", "cudnn needs NVIDIA GPUs, and here is a tpu"),
    ({"attention": "splash"}, 100, "tpu", "multiple of 128 tokens, and sequence_length=100"),
    ({"attention": "splash"}, 128, "tpu", "mesh.model=3 cuts 4 of them"),
    ({"attention": "cudnn"}, 128, "gpu", "needs compute.dtype=bfloat16, which is float32"),
    ({"attention": "cudnn", "dtype": "bfloat16"}, 128, "gpu", "heads of a multiple of 8 features"),
  ],
)
def test_a_kernel_that_cannot_is_refused(changes, length, platform, words):
  compute = dataclasses.replace(tiny.COMPUTE, **changes)
  model = dataclasses.replace(tiny.MODEL, d_model=12 * tiny.MODEL.n_heads)
  with pytest.raises(UserError, match=words):
    attention.check(compute, model, length, platform, 3 if "mesh.model" in words else 1)


@pytest.mark.parametrize(
  ("name", "platform"), [("reference", "cpu"), ("blocked", "gpu"), ("splash", "tpu")]
)
def test_what_can_is_not_refused(name, platform):
  compute = dataclasses.replace(tiny.COMPUTE, attention=name)
  attention.check(compute, tiny.MODEL, 256, platform)


@pytest.mark.parametrize(
  ("platform", "length", "dtype", "found"),
  [
    ("cpu", 256, "bfloat16", ""),
    ("gpu", 256, "bfloat16", "cudnn"),
    ("gpu", 256, "float32", ""),
    ("tpu", 256, "float32", "splash"),
    ("tpu", 100, "float32", ""),
  ],
)
def test_a_platform_has_a_kernel(platform, length, dtype, found):
  compute = dataclasses.replace(tiny.COMPUTE, dtype=dtype)
  assert attention.kernel_for(compute, tiny.MODEL, length, platform) == found
