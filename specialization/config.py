"""The resolved configuration: frozen dataclasses, parsed strictly from a ConfigDict.

`configs/base.py` lists every field with its value, unit and constraint; here are only names, types
and the constraints that a machine can check.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from specialization.errors import UserError
from specialization.method import CHOICES, MethodConfig, TrainConfig
from specialization.strict import at_least, one_of, plain_names, to_dict


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
  max_generic_evaluation_tokens: int
  workers: int

  def __post_init__(self) -> None:
    plain_names("data.domains", self.domains)
    if "generic" in self.domains:
      raise UserError(
        "data.domains.generic is the name of generic text: call the domain otherwise."
      )


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  vocab_size: int
  train_bytes: int
  file: str


@dataclasses.dataclass(frozen=True)
class ClustersConfig:
  embedder: str
  dimensions: int
  features: int
  encoder: str
  max_length: int
  fit_documents: int
  levels: tuple[int, ...]
  iterations: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One transformer: a strict subset of Hugging Face's LlamaForCausalLM.

  `rope_scaling` is (): none, or Llama 3.1's factor, low_freq_factor, high_freq_factor and
  original_max_position_embeddings.
  """

  d_model: int
  n_layers: int
  n_heads: int
  n_kv_heads: int
  d_mlp: int
  rope_theta: float
  norm_epsilon: float
  tie_embeddings: bool
  rope_scaling: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    at_least(1, self, "d_model", "n_layers", "n_heads", "n_kv_heads", "d_mlp")
    if self.rope_scaling and not (
      len(self.rope_scaling) == 4
      and min(self.rope_scaling) > 0
      and self.rope_scaling[1] < self.rope_scaling[2]
    ):
      raise UserError(
        f"rope_scaling={self.rope_scaling} must be () or four numbers above 0: factor,"
        " low_freq_factor, the larger high_freq_factor and original_max_position_embeddings."
      )
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

  def for_hash(self) -> dict[str, Any]:
    """Returns its fields; hashes of before positions could be scaled stay valid."""
    return {k: v for k, v in to_dict(self).items() if k != "rope_scaling" or v}


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
    one_of("compute.attention", self.attention, ("reference", "blocked", "splash", "cudnn"))
    at_least(1, self, "scan_unroll", "attention_block", "microbatches")


# Of one device, in full precision, with nothing to spare.
PLAIN = ComputeConfig("float32", "none", 1, "reference", 1, 1)


@dataclasses.dataclass(frozen=True)
class ImportanceConfig:
  """The distribution over clusters that resamples generic text for a domain."""

  smoothing: float
  tokens: int
  most_repeats: float

  def __post_init__(self) -> None:
    at_least(0, self, "smoothing", "tokens", "most_repeats")


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
  weight: float
  temperature: float
  top_k: int
  cache: bool

  def __post_init__(self) -> None:
    if not 0 <= self.weight <= 1:
      raise UserError(f"distillation.weight={self.weight} must lie between 0 and 1.")
    if not self.temperature > 0:
      raise UserError(f"distillation.temperature={self.temperature} must be above 0.")
    at_least(0, self, "top_k")
    if self.cache and not self.top_k:
      raise UserError(
        "distillation.cache=True keeps the teacher's largest logits on disk: say how many with"
        " distillation.top_k (128 lose next to nothing)."
      )


@dataclasses.dataclass(frozen=True)
class BudgetsConfig:
  """What binds: 0 is no limit."""

  generic_flops: float
  generic_device_hours: float
  specialization_flops: float
  specialization_device_hours: float
  sustained_flops: float
  inference_parameters: int
  domain_tokens: int

  def __post_init__(self) -> None:
    at_least(0, self, *(field.name for field in dataclasses.fields(self)))
    if (self.generic_device_hours or self.specialization_device_hours) and not self.sustained_flops:
      raise UserError(
        "A budget in device_hours needs budgets.sustained_flops (FLOP/s of one device, as"
        " `specialization doctor` measures it)."
      )


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """What cells there are beside methods, domains and domain sizes."""

  shares: tuple[float, ...]
  seeds: tuple[int, ...]
  cells: tuple[str, ...]

  def __post_init__(self) -> None:
    for name in ("shares", "seeds", "cells"):
      values = getattr(self, name)
      if not values or len(set(values)) < len(values):
        raise UserError(f"study.{name}={values} needs at least one entry, and each only once.")
    for share in self.shares:
      if not 0 < share <= 1 or abs(100 * share - round(100 * share)) > 1e-9:
        raise UserError(f"study.shares={self.shares} must be whole hundredths above 0, at most 1.")


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
    one_of("specialize.choose", self.choose, CHOICES)
    if not 0 <= self.replay < 1:
      raise UserError(f"specialize.replay={self.replay} must lie in [0, 1).")
    tokens = self.domain_tokens
    if not tokens or min(tokens) < 1 or len(set(tokens)) < len(tokens):
      raise UserError(
        f"specialize.domain_tokens={tokens} needs at least one number of tokens, each above 0 and"
        " only once."
      )
    at_least(1, self, "evaluate_every")
    at_least(0, self, "patience")


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
  importance: ImportanceConfig
  distillation: DistillationConfig
  budgets: BudgetsConfig
  study: StudyConfig
  evaluation_rows: int
  compilation_cache: str
  metrics: MetricsConfig

  def __post_init__(self) -> None:
    if not self.methods:
      raise UserError("The config has no methods: give `config.methods` at least one row.")
    plain_names("methods", self.methods)
    at_least(1, self, "sequence_length", "evaluation_rows")
    for name, row in self.methods.items():
      if row.size not in self.sizes:
        raise UserError(
          f"methods.{name}.size={row.size!r} is not one of the config's sizes"
          f" ({', '.join(self.sizes)})."
        )
      if row.clusters not in (1, *self.clusters.levels):
        raise UserError(
          f"methods.{name}.clusters={row.clusters} is not a level of the cluster tree: add it to"
          f" clusters.levels={self.clusters.levels} or choose one of them."
        )
      if row.branch:
        one_of(f"methods.{name}.branch", row.branch, tuple(self.methods))
        seed = self.methods[row.branch]
        if seed.branch or (seed.family, seed.strategy, seed.size) != ("dense", "generic", row.size):
          raise UserError(
            f"methods.{name}.branch={row.branch!r} must be a dense method of size {row.size!r} that"
            " is pretrained from scratch on generic text."
          )
      if row.teacher:
        one_of(f"methods.{name}.teacher", row.teacher, tuple(self.methods))
        if self.methods[row.teacher].objective == "distillation":
          raise UserError(
            f"methods.{name}.teacher={row.teacher!r} is itself distilled: choose a method whose"
            " objective is next_token."
          )
