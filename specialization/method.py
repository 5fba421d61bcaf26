"""A method in the configuration: family x data strategy x objective x size, and its training."""

import dataclasses
from collections.abc import Mapping

from specialization.errors import UserError
from specialization.strict import at_least, one_of

STRATEGIES = ("generic", "clustered", "balanced", "importance", "none", "imported")
CHOICES = ("most_frequent", "lowest_loss", "histogram", "all")


@dataclasses.dataclass(frozen=True)
class HorizonConfig:
  """How long to train: exactly one field is positive."""

  steps: int
  tokens: float
  flops: float
  device_hours: float
  sustained_flops: float

  def __post_init__(self) -> None:
    named = ("steps", "tokens", "flops", "device_hours")
    given = {k: vars(self)[k] for k in named if vars(self)[k]}
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
      if not 0 <= vars(self)[name] <= 1:
        raise UserError(f"optimizer.{name}={vars(self)[name]} must lie between 0 and 1.")


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
  keep_last: int
  keep_every: int

  def __post_init__(self) -> None:
    at_least(1, self, "batch_rows", "groups", "log_every", "checkpoint_every", "keep_last")
    at_least(0, self, "keep_every")
    if self.batch_rows % self.groups:
      raise UserError(
        f"batch_rows={self.batch_rows} must be a multiple of groups={self.groups} (of one cluster)."
      )


@dataclasses.dataclass(frozen=True)
class MethodConfig:
  """A row: family x data strategy x objective x size."""

  family: str
  options: Mapping[str, int | float | str]
  strategy: str
  clusters: int
  objective: str
  teacher: str
  size: str
  choose: str
  fine_tuning_rate: float
  branch: str
  branch_share: float
  pretrain: TrainConfig

  def __post_init__(self) -> None:
    if bool(self.branch) != (self.branch_share > 0) or not 0 <= self.branch_share <= 1:
      raise UserError(
        f"branch={self.branch!r} does not go with branch_share={self.branch_share}: a method that"
        " begins from another's pretraining names it and a share, above 0 and at most 1, of it."
      )
    if not self.fine_tuning_rate > 0:
      raise UserError(f"fine_tuning_rate={self.fine_tuning_rate} must be above 0.")
    one_of("strategy", self.strategy, STRATEGIES)
    one_of("objective", self.objective, ("next_token", "distillation"))
    one_of("choose", self.choose, CHOICES)
    has_clusters = self.strategy in ("clustered", "balanced", "importance")
    if has_clusters == (self.clusters == 1):
      raise UserError(
        f"strategy={self.strategy!r} does not go with clusters={self.clusters}: generic data (or"
        " none) has one cluster, clustered, balanced and importance data have more."
      )
    groups = self.pretrain.groups
    if self.strategy == "imported" and not self.pretrain.init_params:
      raise UserError("strategy='imported' needs pretrain.init_params: what `import` has made.")
    if self.strategy == "importance" and groups != 1:
      raise UserError(f"strategy='importance' draws row by row: set pretrain.groups={groups} to 1.")
    if bool(self.teacher) != (self.objective == "distillation"):
      raise UserError(
        f"objective={self.objective!r} does not go with teacher={self.teacher!r}: distillation"
        " needs the name of the method that teaches, and nothing else has one."
      )
    if self.strategy == "balanced" and groups != self.clusters:
      raise UserError(
        f"strategy='balanced' needs a group for each cluster in every batch: set pretrain.groups="
        f"{groups} to clusters={self.clusters}."
      )

  @property
  def pretrains(self) -> bool:
    return self.strategy not in ("none", "imported")

  @property
  def experts(self) -> int:
    """How many experts the pretraining parameters hold: one for each cluster, or one in all."""
    return self.clusters if self.strategy in ("clustered", "balanced") else 1
