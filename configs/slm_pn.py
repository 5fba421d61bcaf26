"""SLM-pn: a projected network, all experts' MLP kernels from one basis (arXiv 2402.01093).

python -m specialization run --config=configs/slm_pn.py --workdir=runs/slm_pn
"""

from ml_collections import ConfigDict

import base
import corpora


def add(config: ConfigDict, clusters: int = 8, groups: int = 8) -> None:
  """Adds the method to a study; the paper's rank is about three quarters of its clusters."""
  config.methods.slm_pn = base.method(
    config,
    family="projected",
    strategy="clustered",
    clusters=clusters,
    groups=groups,
    rank=max(2, 3 * clusters // 4),
    code=clusters,
    spread=0.3,
  )


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
