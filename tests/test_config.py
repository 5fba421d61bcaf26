"""Strict parsing: what is refused, and by which name."""

import dataclasses
import types
from collections.abc import Mapping

import pytest

import tiny_study
from specialization.artifact import flatten
from specialization.config import Config, ModelConfig
from specialization.errors import UserError
from specialization.method import HorizonConfig
from specialization.strict import known_key, one_of, parse, to_dict

NO_TEXT = {"train": (), "validation": (), "test": ()}


def tree():
  return tiny_study.get_config("corpus").to_dict()


def changed(where, value):
  """Returns the config with the field at a dotted name set, or removed if the value is `...`."""
  whole = tree()
  *groups, name = where.split(".")
  node = whole
  for group in groups:
    node = node[group]
  if value is ...:
    del node[name]
  else:
    node[name] = value
  return whole


def test_what_is_parsed_is_what_was_given():
  config = parse(Config, tree())
  assert parse(Config, to_dict(config)) == config
  given, found = flatten(tree()), flatten(to_dict(config))
  assert given.keys() == found.keys()
  assert {key: _plain(value) for key, value in given.items()} == found


def _plain(value):
  return [_plain(each) for each in value] if isinstance(value, (tuple, list)) else value


def test_nothing_can_be_changed_afterwards():
  def check(node):
    if dataclasses.is_dataclass(node):
      assert node.__dataclass_params__.frozen
      node = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    elif isinstance(node, Mapping):
      assert isinstance(node, types.MappingProxyType)
    else:
      assert isinstance(node, (int, float, str, tuple))
      return
    for value in node.values():
      check(value)

  check(parse(Config, tree()))


@pytest.mark.parametrize(
  ("where", "value", "sentence"),
  [
    ("sede", 1, "config has no field 'sede': did you mean 'seed'?"),
    ("pretrain.horizon.step", 1, "pretrain.horizon has no field 'step': did you mean 'steps'?"),
    ("methods.dense.strategi", "", "dense has no field 'strategi': did you mean 'strategy'?"),
    ("data.domains.law.tests", (), "data.domains.law has no field 'tests': did you mean 'test'?"),
    ("mesh.zzz", 1, "config.mesh has no field 'zzz': choose one of expert, data, fsdp, model."),
    ("seed", ..., "config.seed is not set: give it a value (see configs/base.py)."),
    ("methods.dense.pretrain.groups", ..., "config.methods.dense.pretrain.groups is not set"),
    ("seed", 1.0, "config.seed=1.0 must be of type int."),
    ("seed", True, "config.seed=True must be of type int."),
    ("seed", None, "config.seed=None must be of type int."),
    ("name", 3, "config.name=3 must be of type str."),
    ("metrics.tensorboard", 1, "config.metrics.tensorboard=1 must be of type bool."),
    ("compute.dtype", ("float32",), "compute.dtype=('float32',) must be of type str."),
    ("specialize.replay", "a", "config.specialize.replay='a' must be of type float."),
    ("specialize.replay", True, "config.specialize.replay=True must be of type float."),
    ("methods.projected.options.rank", (1,), "rank=(1,) must be of type int or float or str."),
    ("clusters.levels", (2, "4"), "config.clusters.levels='4' must be of type int."),
    ("clusters.levels", None, "config.clusters.levels=None must be of type int."),
    ("clusters.levels", {"a": 1}, "config.clusters.levels={'a': 1} must be of type int."),
    ("specialize.recipe", ((0, 1.0),), "config.specialize.recipe=(0, 1.0) must have 3 entries."),
    ("pretrain", 3, "config.pretrain must be a group of fields, not 3."),
    ("methods", 3, "config.methods must be a group of fields, not 3."),
    ("data.domains.law", "x", "config.data.domains.law must be a group of fields, not 'x'."),
    ("methods", {}, "The config has no methods"),
    ("methods.dense.size", "llm", "dense.size='llm' is not one of the config's sizes (slm)."),
    ("methods.projected.clusters", 3, "methods.projected.clusters=3 is not a level of the cluster"),
    ("methods.mixture.clusters", 3, "set pretrain.groups=2 to clusters=3."),
    ("methods.dense.clusters", 2, "strategy='generic' does not go with clusters=2"),
    ("methods.mixture.clusters", 1, "strategy='balanced' does not go with clusters=1"),
    ("methods.mixture.branch", "dense", "branch='dense' does not go with branch_share=0.0"),
    ("methods.mixture.branch_share", 0.5, "branch='' does not go with branch_share=0.5"),
    ("methods.dense.strategy", "balance", "strategy='balance' is unknown: did you mean 'balanced'"),
    ("methods.dense.objective", "distill", "objective='distill' is unknown"),
    ("pretrain.groups", 3, "batch_rows=16 must be a multiple of groups=3"),
    ("pretrain.optimizer.name", "adam", "optimizer.name='adam' is unknown: did you mean 'adamw'?"),
    ("pretrain.optimizer.schedule", "linear", "optimizer.schedule='linear' is unknown: "),
    ("pretrain.optimizer.warmup_share", 1.5, "optimizer.warmup_share=1.5 must lie between 0 and"),
    ("compute.dtype", "float16", "compute.dtype='float16' is unknown: did you mean 'bfloat16'?"),
    ("compute.remat", "all", "compute.remat='all' is unknown: "),
    ("compute.attention", "flash", "compute.attention='flash' is unknown: "),
    ("specialize.choose", "lowest", "choose='lowest' is unknown: did you mean 'lowest_loss'?"),
    ("specialize.replay", 1.0, "specialize.replay=1.0 must lie in [0, 1)."),
    ("specialize.patience", -1, "patience=-1 must be at least 0."),
    ("specialize.evaluate_every", 0, "evaluate_every=0 must be at least 1."),
    ("pretrain.log_every", 0, "log_every=0 must be at least 1."),
    ("sequence_length", 0, "sequence_length=0 must be at least 1."),
    ("data.domains", {"generic": NO_TEXT}, "data.domains.generic is the name of generic text"),
    ("data.domains", {"a/b": NO_TEXT}, "data.domains.a/b is not a name of letters and digits"),
    ("methods", {"a--b": tree()["methods"]["dense"]}, "methods.a--b is not a name of letters"),
    ("specialize.domain_tokens", (0, 5), "domain_tokens=(0, 5) needs at least one number of"),
    ("specialize.domain_tokens", (5, 5), "domain_tokens=(5, 5) needs at least one number of"),
  ],
)  # fmt: skip
def test_what_is_wrong_is_named(where, value, sentence):
  with pytest.raises(UserError) as raised:
    parse(Config, changed(where, value))
  assert sentence in str(raised.value)


@pytest.mark.parametrize(
  ("where", "value", "parsed"),
  [
    ("specialize.replay", 0, 0.0),
    ("clusters.levels", 2, (2,)),
    ("clusters.levels", [2, 4], (2, 4)),
    ("data.generic.train", "a.txt", ("a.txt",)),
    ("specialize.recipe", [[0, 1, 5]], ((0, 1.0, 5),)),
  ],
)
def test_what_can_only_mean_one_thing_is_taken(where, value, parsed):
  node = parse(Config, changed(where, value))
  for name in where.split("."):
    node = getattr(node, name)
  assert node == parsed
  assert type(node) is type(parsed)


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"d_model": 30}, "d_model=30 must be an even multiple of n_heads=4"),
    ({"d_model": 36}, "d_model=36 must be an even multiple of n_heads=4"),
    ({"n_kv_heads": 3}, "n_heads=4 must be a multiple of n_kv_heads=3"),
    ({"n_heads": 0}, "n_heads=0 must be at least 1"),
    ({"d_mlp": -1}, "d_mlp=-1 must be at least 1"),
    ({"rope_scaling": (8.0,)}, "must be \\(\\) or four numbers above 0"),
    ({"rope_scaling": (8.0, 1.0, 4.0, 0.0)}, "must be \\(\\) or four numbers above 0"),
    ({"rope_scaling": (8.0, 4.0, 4.0, 64.0)}, "must be .* the larger high_freq_factor"),
  ],
)
def test_impossible_models(changes, sentence):
  fields = dict(d_model=32, n_layers=1, n_heads=4, n_kv_heads=2, d_mlp=8) | changes
  with pytest.raises(UserError, match=sentence):
    ModelConfig(**fields, rope_theta=1e4, norm_epsilon=1e-5, tie_embeddings=True)


def test_hashes_do_not_say_that_positions_are_not_scaled():
  plain = ModelConfig(32, 1, 4, 2, 8, 1e4, 1e-5, True)
  scaled = dataclasses.replace(plain, rope_scaling=(8.0, 1.0, 4.0, 64.0))
  assert scaled.for_hash() == plain.for_hash() | {"rope_scaling": [8.0, 1.0, 4.0, 64.0]}
  assert set(plain.for_hash()) == {field.name for field in dataclasses.fields(plain)} - {
    "rope_scaling"
  }


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    ({}, "this one has none"),
    ({"steps": 1, "flops": 1e9}, r"this one has \{'steps': 1, 'flops': 1000000000.0\}"),
    ({"steps": -1}, r"this one has \{'steps': -1\}"),
    ({"tokens": -1.0}, r"this one has \{'tokens': -1.0\}"),
    ({"device_hours": 1.0}, "needs horizon.sustained_flops"),
  ],
)
def test_a_horizon_is_exactly_one(given, sentence):
  fields = dict(steps=0, tokens=0.0, flops=0.0, device_hours=0.0, sustained_flops=0.0)
  with pytest.raises(UserError, match=sentence):
    HorizonConfig(**(fields | given))


def test_the_nearest_is_named_or_else_all():
  with pytest.raises(UserError, match=r"^x='cosin' is unknown: did you mean 'cosine'\?$"):
    one_of("x", "cosin", ("constant", "cosine"))
  with pytest.raises(UserError, match=r"^here has no field 'zzz': choose one of a, b\.$"):
    known_key("here", "zzz", ["a", "b"])
  one_of("x", "cosine", ("constant", "cosine"))
  known_key("here", "a", {"a": 1})
