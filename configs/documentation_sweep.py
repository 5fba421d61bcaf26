"""Every method of documentation_study.py with several learning rates, the same for each.

python -m specialization run --config=configs/documentation_sweep.py --workdir=runs/sweep \
  --config.data.folder=FOLDER

Each method has its pretraining's rate varied at one rate of fine-tuning, and fine-tuning's at one
of pretraining; where the best is at an end of the grid, the grid goes on. The report's section
"Learning rates" shows them all, and which is the best on validation text of two domains, after a
part of the study's pretraining. One teacher serves all students.
"""

from ml_collections import ConfigDict

import base
import corpora
import documentation_study

DOMAINS = ("django", "scipy")
PRETRAINING = (1e-3, 2e-3, 4e-3, 8e-3)
FINE_TUNING = (0.5, 1.0, 2.0)  # factors
MIDDLE = (4e-3, 1.0)
MORE = {
  "slm_d": [(4e-3, 4.0)],
  "slm_mix": [(5e-4, 1.0), (1e-3, 2.0), (1e-3, 4.0)],
  "slm_nopt": [(0.0, 4.0)],
}


def _name(method: str, rate: float, factor: float) -> str:
  where = f"_{rate:.0e}".replace("e-0", "e-") if rate else ""
  return f"{method}{where}_x{100 * factor:.0f}"


def get_config(variant: str = "") -> ConfigDict:
  config = documentation_study.get_config()
  config.name = "documentation sweep"
  config.data.domains = {name: config.data.domains[name] for name in DOMAINS}
  config.specialize.domain_tokens = (128_000,)
  config.study.shares = (1.0,)
  config.study.seeds = (0,)
  config.study.cells = ("*",)
  config.pretrain.horizon.steps = 300
  rate, factor = MIDDLE
  grid = [(r, factor) for r in PRETRAINING] + [(rate, f) for f in FINE_TUNING if f != factor]
  if variant == "smoke":
    grid = grid[2:5]
  methods, config.methods = config.methods, ConfigDict()
  for name in documentation_study.METHODS:
    method = methods[name]
    rates = grid if method.strategy != "none" else [(0.0, f) for f in FINE_TUNING]
    for rate, factor in [*rates, *MORE.get(name, ())]:
      row = base.linked(method)
      row.fine_tuning_rate = factor
      if rate:
        row.pretrain.optimizer.learning_rate = rate
      if method.teacher:
        row.teacher = _name(method.teacher, *MIDDLE)
      config.methods[_name(name, rate, factor)] = row
  if variant == "smoke":
    corpora.smoke(config)
  return config
