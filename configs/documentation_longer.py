"""documentation_study.py with a whole pass over its generic text, for gains that may grow with it.

mkdir -p runs/longer && cp -r runs/study/data runs/longer
python -m specialization run --config=configs/documentation_longer.py --workdir=runs/longer \
  --config.data.folder=FOLDER

Hours on two CPU cores; the copy saves the study's preparation.
"""

from ml_collections import ConfigDict

import corpora
import documentation_study

METHODS = ("slm", "slm_mix", "slm_pn")


def get_config(variant: str = "") -> ConfigDict:
  # 2,000 steps, as the study's, 4,000 and so on.
  config = documentation_study.part("documentation longer", METHODS, (0.16, 0.32, 0.64, 1.0))
  config.pretrain.horizon.steps = 12_500
  if variant == "smoke":
    corpora.smoke(config)
  return config
