"""LLM: a large dense model, the reference that breaks the inference budget (arXiv 2402.01093).

python -m specialization run --config=configs/llm.py --workdir=runs/llm
"""

from ml_collections import ConfigDict

import base
import corpora


def add(config: ConfigDict) -> None:
  """Adds the method and, if the study has none, its size: twice the depth, twice the width."""
  if "llm" not in config.sizes:
    slm = config.sizes.slm
    config.sizes.llm = base.size(2 * slm.d_model, 2 * slm.n_layers, 2 * slm.n_heads, 2 * slm.d_mlp)
  config.methods.llm = base.method(config, size="llm")


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
