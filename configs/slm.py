"""SLM: one small dense model, pretrained on generic text, then fine-tuned (arXiv 2402.01093).

python -m specialization run --config=configs/slm.py --workdir=runs/slm
"""

from ml_collections import ConfigDict

import base
import corpora


def add(config: ConfigDict) -> None:
  """Adds the method to a study."""
  config.methods.slm = base.method(config)


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
