"""Every method of documentation_study.py with several learning rates, the same for each.

python -m specialization run --config=configs/documentation_sweep.py --workdir=runs/sweep \
  --config.data.folder=FOLDER

The report's section "Learning rates" shows them all, and which is the best on validation text of
three domains, after a fifth of the study's pretraining. One teacher serves all students.
"""

from ml_collections import ConfigDict

import base
import corpora
import documentation_study

DOMAINS = ("django", "git", "scipy")
PRETRAINING = (1e-3, 2e-3, 4e-3)
FINE_TUNING = (0.5, 1.0, 2.0)  # factors


def _text(rate: float) -> str:
  return f"{rate:.0e}".replace("e-0", "e-")


def get_config(variant: str = "") -> ConfigDict:
  config = documentation_study.get_config()
  config.name = "documentation sweep"
  config.data.domains = {name: config.data.domains[name] for name in DOMAINS}
  config.specialize.domain_tokens = (128_000,)
  config.study.shares = (1.0,)
  config.study.seeds = (0,)
  config.study.cells = ("*",)
  config.pretrain.horizon.steps = 600
  middle = PRETRAINING[1]
  rates, factors = (
    ((middle,), FINE_TUNING[:2]) if variant == "smoke" else (PRETRAINING, FINE_TUNING)
  )
  methods, config.methods = config.methods, ConfigDict()
  for name in documentation_study.METHODS:
    method = methods[name]
    for rate in rates if method.strategy != "none" else (0.0,):
      for factor in factors:
        row = base.linked(method)
        row.fine_tuning_rate = factor
        where = f"{name}_x{100 * factor:.0f}"
        if rate:
          row.pretrain.optimizer.learning_rate = rate
          where = f"{name}_{_text(rate)}_x{100 * factor:.0f}"
        if method.teacher:
          row.teacher = f"{method.teacher}_{_text(middle)}_x{100 * FINE_TUNING[1]:.0f}"
        config.methods[where] = row
  if variant == "smoke":
    corpora.smoke(config)
  return config
