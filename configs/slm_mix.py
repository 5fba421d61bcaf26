"""SLM-mix: a hard mixture, one independent small model per cluster (arXiv 2402.01093).

python -m specialization run --config=configs/slm_mix.py --workdir=runs/slm_mix
"""

from ml_collections import ConfigDict

import base
import corpora


def add(config: ConfigDict, clusters: int = 8) -> None:
  """Adds the method to a study."""
  config.methods.slm_mix = base.method(
    config, family="mixture", strategy="balanced", clusters=clusters, groups=clusters
  )


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
