"""Every family on every preset, of 256 devices that are not there and of the eight that are."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

import tiny
import tiny_study
from specialization import collectives, hlo, main, sharding
from specialization.phases import build, topology

PRESETS = sorted(path.stem for path in (tiny_study.ROOT / "configs" / "meshes").glob("*.py"))
DEVICES = 256
SMALL = {
  "clusters.levels": (8,),
  "pretrain.batch_rows": 64,
  "sizes.slm.d_model": 32,
  "sizes.slm.n_heads": 4,
  "sizes.slm.n_kv_heads": 4,
  "sizes.slm.d_mlp": 64,
  **{f"methods.{name}.clusters": 8 for name in ("mixture", "projected")},
  **{f"methods.{name}.pretrain.groups": 8 for name in ("mixture", "projected")},
}
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


@pytest.fixture
def uncached():
  """What is read from the cache is not compiled, so that the compiler says nothing of it."""
  folder = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_compilation_cache_dir", folder)
  compilation_cache.reset_cache()


@pytest.mark.usefixtures("uncached")
@pytest.mark.parametrize("family", METHODS)
def test_no_array_is_made_whole_on_its_way_and_experts_do_not_talk(preset, family):
  """On the preset's mesh of eight devices: the mixture says nothing over `expert` but scalars."""
  sizes = main.preset(tiny_study.ROOT / "configs", preset)
  config = main.load_config(
    f"{tiny_study.__file__}:corpus", SMALL | {f"mesh.{axis}": size for axis, size in sizes.items()}
  )
  row = config.methods[family]
  trainer = build.pretrainer(config, row)
  with jax.set_mesh(trainer.mesh):
    batch = topology.abstract_batch(trainer, row, config.sequence_length)
    lowered = trainer.step.lower(trainer.like, batch)
    with topology.made_whole() as said:
      program = lowered.compile()
  assert not said
  found = collectives.talks(hlo.Program(program.as_text()), trainer.mesh)
  if family == "mixture" and sizes["expert"] == -1:
    over_expert = [talk for talk in found if "expert" in talk.axes]
    assert over_expert
    assert all(talk.is_scalar for talk in over_expert)


@pytest.mark.usefixtures("uncached")
def test_an_array_that_is_made_whole_is_noticed():
  mesh = tiny.mesh(8, data=4, model=2)
  rows, columns = (
    NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), (None, "model"))
  )
  like = jax.ShapeDtypeStruct((16, 16, 16), jnp.float32, sharding=rows)
  turn = jax.jit(lambda x: jnp.sin(jax.lax.with_sharding_constraint(2 * x, columns)))
  with jax.set_mesh(mesh):
    lowered = turn.lower(like)
    with topology.made_whole() as said:
      lowered.compile()
  assert said
