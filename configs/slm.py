"""SLM: one small dense model, pretrained on generic text, then fine-tuned (PAPER, section 3.1).

python -m specialization run --config=configs/slm.py --workdir=runs/slm
"""

import base
import corpora
from ml_collections import ConfigDict


def add(config: ConfigDict) -> None:
  """Adds the method to a study."""
  config.methods.slm = base.method(config)


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
