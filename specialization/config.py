"""The resolved configuration: frozen dataclasses, parsed strictly from a ConfigDict.

`configs/base.py` is the only place that lists every field with its value, unit and constraint.
Here are only names, types and the constraints that a machine can check.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from specialization.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  expert: int
  data: int
  fsdp: int
  model: int


@dataclasses.dataclass(frozen=True)
class DomainConfig:
  train: tuple[str, ...]
  validation: tuple[str, ...]
  test: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DataConfig:
  folder: str
  generic: DomainConfig
  domains: Mapping[str, DomainConfig]
  text_field: str
  max_bad_share: float
  max_document_chars: int
  max_generic_bytes: int
  max_domain_bytes: int
  max_evaluation_tokens: int
  workers: int


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  vocab_size: int
  train_bytes: int


@dataclasses.dataclass(frozen=True)
class ClustersConfig:
  embedder: str
  dimensions: int
  features: int
  fit_documents: int
  levels: tuple[int, ...]
  iterations: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One transformer: a strict subset of Hugging Face's LlamaForCausalLM."""

  d_model: int
  n_layers: int
  n_heads: int
  n_kv_heads: int
  d_mlp: int
  rope_theta: float
  norm_epsilon: float
  tie_embeddings: bool

  def __post_init__(self) -> None:
    _at_least(1, self, "d_model", "n_layers", "n_heads", "n_kv_heads", "d_mlp")
    if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
      raise UserError(
        f"d_model={self.d_model} must be an even multiple of n_heads={self.n_heads}: rotary"
        " embedding needs an even head size."
      )
    if self.n_heads % self.n_kv_heads:
      raise UserError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}.")

  @property
  def head_dim(self) -> int:
    return self.d_model // self.n_heads


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
  """How a step is computed; none of it changes what is computed beyond rounding."""

  dtype: str
  remat: str
  scan_unroll: int
  attention: str
  attention_block: int
  microbatches: int

  def __post_init__(self) -> None:
    one_of("compute.dtype", self.dtype, ("float32", "bfloat16"))
    one_of("compute.remat", self.remat, ("none", "dots", "full"))
    one_of("compute.attention", self.attention, ("reference", "blocked"))
    _at_least(1, self, "scan_unroll", "attention_block", "microbatches")


@dataclasses.dataclass(frozen=True)
class HorizonConfig:
  """How long to train: exactly one field is positive."""

  steps: int
  tokens: float
  flops: float
  device_hours: float
  sustained_flops: float

  def __post_init__(self) -> None:
    named = {k: getattr(self, k) for k in ("steps", "tokens", "flops", "device_hours")}
    given = {k: v for k, v in named.items() if v}
    if len(given) != 1 or min(given.values()) < 0:
      raise UserError(
        "A horizon is exactly one positive number of steps, tokens, flops or device_hours, but"
        f" this one has {given or 'none'}: set the others to 0."
      )
    if self.device_hours and not self.sustained_flops > 0:
      raise UserError(
        "A horizon in device_hours needs horizon.sustained_flops (FLOP/s of one device, as"
        " `specialization doctor` measures it)."
      )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  name: str
  learning_rate: float
  schedule: str
  warmup_share: float
  cooldown_share: float
  final_share: float
  b1: float
  b2: float
  epsilon: float
  weight_decay: float
  clip_norm: float
  decay: tuple[tuple[str, float], ...]
  learning_rates: tuple[tuple[str, float], ...]

  def __post_init__(self) -> None:
    one_of("optimizer.name", self.name, ("adamw", "muon"))
    one_of("optimizer.schedule", self.schedule, ("constant", "cosine", "wsd"))
    for name in ("warmup_share", "cooldown_share", "final_share"):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f"optimizer.{name}={getattr(self, name)} must lie between 0 and 1.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One training phase: used to pretrain and to specialize."""

  init_state: str
  init_params: str
  batch_rows: int
  groups: int
  horizon: HorizonConfig
  optimizer: OptimizerConfig
  log_every: int
  checkpoint_every: int

  def __post_init__(self) -> None:
    _at_least(1, self, "batch_rows", "groups", "log_every", "checkpoint_every")
    if self.batch_rows % self.groups:
      raise UserError(
        f"batch_rows={self.batch_rows} must be a multiple of groups={self.groups}: each group of"
        " rows has one cluster."
      )


@dataclasses.dataclass(frozen=True)
class MethodConfig:
  """A row: family x data strategy x objective x size."""

  family: str
  options: Mapping[str, int | float | str]
  strategy: str
  clusters: int
  objective: str
  size: str
  pretrain: TrainConfig

  def __post_init__(self) -> None:
    one_of("strategy", self.strategy, ("generic", "clustered", "balanced"))
    one_of("objective", self.objective, ("next_token",))
    if (self.clusters == 1) != (self.strategy == "generic"):
      raise UserError(
        f"strategy={self.strategy!r} does not go with clusters={self.clusters}: generic data has"
        " one cluster, clustered and balanced data have more."
      )
    if self.strategy == "balanced" and self.pretrain.groups != self.clusters:
      raise UserError(
        f"strategy='balanced' needs a group for each cluster in every batch: set"
        f" pretrain.groups={self.pretrain.groups} to clusters={self.clusters}."
      )


@dataclasses.dataclass(frozen=True)
class SpecializeConfig:
  domain_tokens: tuple[int, ...]
  choose: str
  choose_tokens: int
  replay: float
  recipe: tuple[tuple[int, float, int], ...]
  evaluate_every: int
  patience: int
  train: TrainConfig

  def __post_init__(self) -> None:
    one_of("specialize.choose", self.choose, ("most_frequent", "lowest_loss", "histogram"))
    if not 0 <= self.replay < 1:
      raise UserError(f"specialize.replay={self.replay} must lie in [0, 1).")
    if not self.domain_tokens:
      raise UserError("specialize.domain_tokens=() needs at least one number of tokens.")
    _at_least(1, self, "evaluate_every")
    _at_least(0, self, "patience")


@dataclasses.dataclass(frozen=True)
class MetricsConfig:
  tensorboard: bool
  wandb_project: str


@dataclasses.dataclass(frozen=True)
class Config:
  name: str
  seed: int
  sequence_length: int
  mesh: MeshConfig
  data: DataConfig
  tokenizer: TokenizerConfig
  clusters: ClustersConfig
  sizes: Mapping[str, ModelConfig]
  methods: Mapping[str, MethodConfig]
  compute: ComputeConfig
  pretrain: TrainConfig
  specialize: SpecializeConfig
  evaluation_rows: int
  compilation_cache: str
  metrics: MetricsConfig

  def __post_init__(self) -> None:
    if not self.methods:
      raise UserError("The config has no methods: give `config.methods` at least one row.")
    _at_least(1, self, "sequence_length", "evaluation_rows")
    for name, row in self.methods.items():
      if row.size not in self.sizes:
        raise UserError(
          f"methods.{name}.size={row.size!r} is not one of the config's sizes"
          f" ({', '.join(self.sizes)})."
        )
      if row.clusters != 1 and row.clusters not in self.clusters.levels:
        raise UserError(
          f"methods.{name}.clusters={row.clusters} is not a level of the cluster tree:"
          f" add it to clusters.levels={self.clusters.levels} or choose one of them."
        )


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UserError, naming the nearest choice, unless value is one of choices."""
  if value not in choices:
    raise UserError(f"{name}={value!r} is unknown{_nearest(value, choices)}")


def known_key(where: str, key: str, known: Iterable[str]) -> None:
  """Raises UserError, naming the nearest key, unless a group of fields has this one."""
  known = tuple(known)
  if key not in known:
    raise UserError(f"{where} has no field {key!r}{_nearest(key, known)}")


def _nearest(word: str, known: Iterable[str]) -> str:
  known = tuple(known)
  match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
  return f": did you mean {match[0]!r}?" if match else f": choose one of {', '.join(known)}."


def _at_least(least: int, config: Any, *names: str) -> None:
  for name in names:
    if getattr(config, name) < least:
      raise UserError(f"{name}={getattr(config, name)} must be at least {least}.")


def parse(cls: type[T], tree: Mapping[str, Any], where: str = "config") -> T:
  """Builds a frozen dataclass from nested mappings; every field must be there and no other.

  Args:
    cls: a dataclass whose fields are scalars, tuples, mappings or dataclasses.
    tree: nested mappings, as ml_collections.ConfigDict.to_dict() gives.
    where: dotted name of this part, for messages.

  Raises:
    UserError: an unknown key (naming the nearest one), a missing key or a value of another type.
  """
  hints = typing.get_type_hints(cls)
  for key in tree:
    known_key(where, key, hints)
  if missing := [key for key in hints if key not in tree]:
    raise UserError(f"{where}.{missing[0]} is not set: give it a value (see configs/base.py).")
  return cls(**{key: _value(hints[key], tree[key], f"{where}.{key}") for key in hints})


def _value(kind: Any, value: Any, where: str) -> Any:
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if dataclasses.is_dataclass(kind):
    if not isinstance(value, Mapping):
      raise UserError(f"{where} must be a group of fields, not {value!r}.")
    return parse(typing.cast(type, kind), value, where)
  if origin is Mapping or origin is dict:
    if not isinstance(value, Mapping):
      raise UserError(f"{where} must be a group of fields, not {value!r}.")
    return types.MappingProxyType({k: _value(args[1], v, f"{where}.{k}") for k, v in value.items()})
  if origin is tuple:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    kinds = [args[0]] * len(items) if args[-1] is Ellipsis else args
    if len(kinds) != len(items):
      raise UserError(f"{where}={value!r} must have {len(kinds)} entries.")
    return tuple(_value(k, v, where) for k, v in zip(kinds, items, strict=True))
  choices = args if origin is types.UnionType else (kind,)
  if float in choices and isinstance(value, int) and not isinstance(value, bool):
    return value if int in choices else float(value)
  if not any(type(value) is choice for choice in choices):
    names = " or ".join(choice.__name__ for choice in choices)
    raise UserError(f"{where}={value!r} must be of type {names}.")
  return value


def to_dict(config: Any) -> Any:
  """Returns the dataclass as nested plain dicts, lists and scalars, ready for JSON."""
  if dataclasses.is_dataclass(config):
    return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
  if isinstance(config, Mapping):
    return {key: to_dict(value) for key, value in config.items()}
  if isinstance(config, tuple):
    return [to_dict(value) for value in config]
  return config
