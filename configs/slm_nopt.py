"""SLM-nopt: a small dense model trained on the domain alone (arXiv 2402.01093).

python -m specialization run --config=configs/slm_nopt.py --workdir=runs/slm_nopt
"""

from ml_collections import ConfigDict

import base
import corpora


def add(config: ConfigDict) -> None:
  """Adds the method to a study."""
  config.methods.slm_nopt = base.method(config, strategy="none")


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
