"""The tiny study with a row for every method: tests/every_method.py:FOLDER."""

from ml_collections import ConfigDict

import tiny_study
from tiny_study import base


def get_config(corpus: str) -> ConfigDict:
  config = tiny_study.get_config(corpus)
  config.name = "every"
  config.sizes.llm = base.size(d_model=32, n_layers=2, n_heads=2, d_mlp=32)
  config.specialize.patience = 0
  config.specialize.train.horizon.steps = 6
  config.specialize.train.optimizer.learning_rate = 0.01
  config.distillation.top_k = 0
  rows = config.methods
  rows.large = base.method(config, size="llm")
  rows.none = base.method(config, strategy="none")
  rows["is"] = base.method(config, strategy="importance", clusters=2)
  for name, choose in (("projected_loss", "lowest_loss"), ("projected_all", "all")):
    rows[name] = base.method(
      config,
      family="projected",
      strategy="clustered",
      clusters=2,
      groups=2,
      rank=2,
      code=2,
      spread=0.3,
    )
    rows[name].choose = choose
  rows.taught = base.method(config, objective="distillation", teacher="large")
  return config
