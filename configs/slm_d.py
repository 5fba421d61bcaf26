"""SLM-d: a small dense model that learns from a large one in fine-tuning (arXiv 2402.01093).

python -m specialization run --config=configs/slm_d.py --workdir=runs/slm_d --only='slm_d*'
"""

from ml_collections import ConfigDict

import base
import corpora
import llm


def add(config: ConfigDict) -> None:
  """Adds the method and, if the study has none, its teacher."""
  if "llm" not in config.methods:
    llm.add(config)
  config.methods.slm_d = base.method(config, objective="distillation", teacher="llm")


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
