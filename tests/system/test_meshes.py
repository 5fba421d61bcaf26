"""Every family on every preset of 256 devices, none of which is there."""

from pathlib import Path

import jax
import pytest

import tiny_study
from specialization import main, sharding
from specialization.phases import build, topology

PRESETS = sorted(path.stem for path in (tiny_study.ROOT / "configs" / "meshes").glob("*.py"))
DEVICES = 256
METHODS = {"dense": "slm", "mixture": "slm_mix", "projected": "slm_pn"}


@pytest.fixture(scope="module", params=PRESETS)
def preset(request):
  return request.param


@pytest.fixture(scope="module")
def config(preset):
  """The paper's, with as many experts as the preset has devices for them."""
  mesh = main.preset(tiny_study.ROOT / "configs", preset)
  experts = DEVICES // mesh["fsdp"] if mesh["expert"] == -1 else 16
  return main.load_config(
    str(Path(tiny_study.ROOT, "configs", "paper.py")),
    {f"mesh.{axis}": size for axis, size in mesh.items()}
    | {f"methods.{name}.clusters": experts for name in ("slm_mix", "slm_pn")}
    | {f"methods.{name}.pretrain.groups": experts for name in ("slm_mix", "slm_pn")}
    | {"clusters.levels": (16, 32, 64, 256, 1024), "pretrain.batch_rows": 16 * DEVICES},
  )


@pytest.mark.parametrize("family", METHODS)
def test_the_step_can_be_traced_and_lowered(config, family):
  row = config.methods[METHODS[family]]
  trainer = build.pretrainer(config, row, devices=DEVICES)
  batch = topology.abstract_batch(trainer, row, config.sequence_length)
  with jax.sharding.use_abstract_mesh(trainer.mesh):
    traced = trainer.step.trace(trainer.like, batch)
    lowered = traced.lower(lowering_platforms=("tpu",)).as_text()
  assert "sdy.sharding" in lowered
  for leaf in jax.tree.leaves(traced.out_info[0].params):
    assert leaf.dtype == "float32"


@pytest.mark.parametrize("family", METHODS)
def test_what_lies_whole_on_every_device(config, preset, family):
  row = config.methods[METHODS[family]]
  mesh, of = build.pretraining_mesh(config, row, DEVICES), build.make_method(config, row)
  share = sharding.whole_share(mesh, of.axes(), of.shapes())
  if "fsdp" in preset or (preset, family) == ("experts", "mixture"):
    assert share <= 0.02
  elif (preset, family) == ("experts", "projected"):
    assert share < 0.2
  else:
    assert share == 1.0
