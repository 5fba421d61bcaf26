"""Training steps compiled for TPUs, none of which is there."""

import dataclasses
import math
import subprocess
import sys
from collections import Counter

import jax
import pytest

import tiny_study
from specialization import main
from specialization.config import Config
from specialization.errors import UserError
from specialization.phases import build, topology

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="so is the compiler for TPUs")
CHIPS = 16
SIZES = {
  "sequence_length": 128,
  "tokenizer.vocab_size": 512,
  "pretrain.batch_rows": 32,
  "sizes.slm.d_model": 256,
  "sizes.slm.d_mlp": 512,
  "clusters.levels": (CHIPS,),
  "compute.dtype": "bfloat16",
  "compute.attention": "splash",
  **{f"methods.{name}.clusters": CHIPS for name in ("mixture", "projected")},
  **{f"methods.{name}.pretrain.groups": CHIPS for name in ("mixture", "projected")},
}


def load(preset: str, **changes: object) -> Config:
  mesh = {f"mesh.{axis}": n for axis, n in main.preset(tiny_study.ROOT / "configs", preset).items()}
  dotted = {name.replace("__", "."): value for name, value in changes.items()}
  return main.load_config(f"{tiny_study.__file__}:corpus", SIZES | mesh | dotted)


@pytest.fixture(scope="module")
def devices():
  return topology.find_devices("v5e:4x4")


@pytest.fixture(scope="module")
def examined(devices):
  """Returns a method's trainer and its step on a preset's mesh, compiled once."""
  known = {}

  def of(family: str, preset: str, **changes: object):
    key = (family, preset, *sorted(changes.items()))
    if key not in known:
      config = load(preset, **changes)
      row = config.methods[family]
      trainer = build.pretrainer(config, row, devices=devices)
      known[key] = trainer, topology.examine(trainer, row, config.sequence_length)
    return known[key]

  return of


EVERY = [("dense", "data"), ("dense", "fsdp"), ("mixture", "experts"), ("projected", "experts")]


@pytest.mark.parametrize(("family", "preset"), EVERY)
def test_a_step_compiles_and_is_no_faster_than_its_products(examined, family, preset):
  trainer, step = examined(family, preset)
  assert not step.whole
  assert step.seconds >= step.serial >= step.products
  # A kernel leaves out half of the attention that model FLOPs count; nothing else is less.
  chips_flops = step.products * 197e12
  model_flops = trainer.flops_per_step / CHIPS
  assert 0.8 * model_flops < chips_flops < 1.5 * model_flops
  assert 0 < step.mfu < 1
  held = sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(trainer.like)
  )
  assert held < step.memory < held + 2**28


def test_experts_of_a_mixture_do_not_talk(examined):
  _, step = examined("mixture", "experts")
  assert step.talks
  assert all(talk.is_scalar for talk in step.talks)


def test_a_projected_network_moves_each_kernel_once(examined):
  """And its gradient once, in bfloat16: of all groups the part that one device does not keep."""
  _, step = examined("projected", "experts")
  moves = [talk for talk in step.talks if talk.kind == "all-to-all"]
  assert [talk.axes for talk in moves] == [("expert",)] * 6
  layers, groups = 2, CHIPS
  kernels = layers * 3 * 256 * 512 * groups // CHIPS
  assert sum(talk.bytes for talk in moves) == 2 * 2 * kernels * (CHIPS - 1) // CHIPS
  others = [talk for talk in step.talks if talk.kind == "all-gather"]
  assert sum(talk.bytes for talk in others) < 0.05 * sum(talk.bytes for talk in moves)


def test_sharded_kernels_are_gathered():
  """By itself XLA would sum them up over a cube's 64 chips, of which all but one have zeros."""
  config = load("fsdp", sizes__slm__d_model=512, pretrain__batch_rows=64)
  row = config.methods["dense"]
  trainer = build.pretrainer(config, row, devices=topology.find_devices("v5p:4x4x4"))
  step = topology.examine(trainer, row, config.sequence_length)
  said = Counter()
  for talk in step.talks:
    said[talk.kind] += talk.bytes
  kernels = sum(leaf.size for leaf in jax.tree.leaves(trainer.like.params) if leaf.ndim > 1)
  # In bfloat16, before products and before those of the gradient; then the gradient itself.
  assert 0.9 * 2 * 2 * kernels < said["all-gather"] < 1.2 * 2 * 2 * kernels
  assert said["all-reduce"] < 1.2 * 2 * 2 * kernels


def test_remat_gives_memory_for_products(examined):
  large = dict(pretrain__batch_rows=1024, sizes__slm__n_layers=4)
  steps = {
    remat: examined("dense", "data", compute__remat=remat, **large)[1]
    for remat in ("none", "dots", "full")
  }
  assert steps["none"].memory > steps["dots"].memory > steps["full"].memory
  assert steps["none"].products == steps["dots"].products < steps["full"].products


def test_a_step_that_does_not_fit_says_so(devices):
  config = load("data", pretrain__batch_rows=2**21)
  row = config.methods["dense"]
  trainer = build.pretrainer(config, row, devices=devices)
  with pytest.raises(UserError, match=r"does not fit a chip's 17\.2 GB .*raise mesh\.fsdp"):
    topology.examine(trainer, row, config.sequence_length)


@pytest.mark.parametrize("name", ["v5e:3x5x7", "abacus:2x2"])
def test_a_topology_that_there_is_not(name):
  with pytest.raises(UserError, match=f"--topology={name} cannot be compiled for"):
    topology.find_devices(name)


def test_attention_that_is_not_for_tpus_is_refused():
  found = list(topology.findings(load("data", compute__attention="cudnn"), "v5e:4x4", "dense"))
  assert [finding.is_problem for finding in found] == [False, True]
  assert "cudnn needs NVIDIA GPUs" in found[1].text


def test_the_command_tells_all_of_it():
  fields = [f"--config.{name}={value}" for name, value in SIZES.items()]
  command = ["doctor", f"--config={tiny_study.__file__}:corpus", "--mesh=experts", *fields]
  said = subprocess.run(
    [sys.executable, "-m", "specialization", *command, "--topology=v5e:4x4", "--only=mixture"],
    env=tiny_study.environment() | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert said.returncode == 0, said.stderr
  lines = said.stdout.splitlines()
  assert lines[0] == "topology: v5e:4x4, 16 x TPU v5 lite; mesh expert=16, data=1, fsdp=1, model=1"
  assert len(lines) == 5
  assert "of 17.2 GB on each chip; compiled in" in lines[1]
  assert lines[2].startswith("method mixture: collectives: expert ")
  assert lines[2].endswith("of scalars")
  assert "MFU at most" in lines[3]
  assert lines[4] == "doctor: no problem found."


def test_steps_are_told_by_their_longest_part():
  step = topology.Step(1, 1.0, 2.0, 3.0, (), 4.0, 0.0, ())
  assert step.seconds == 4.0
  assert dataclasses.replace(step, talking=0.0).seconds == 3.0
