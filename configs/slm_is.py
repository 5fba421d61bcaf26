"""SLM-is: importance sampling, a small dense model pretrained for each domain on generic text that
is drawn as the domain's text falls on the clusters (arXiv 2402.01093).

python -m specialization run --config=configs/slm_is.py --workdir=runs/slm_is
"""

from ml_collections import ConfigDict

import base
import corpora


def add(config: ConfigDict, clusters: int = 32, name: str = "slm_is") -> None:
  """Adds the method to a study; more clusters assume less and know them less well."""
  config.methods[name] = base.method(config, strategy="importance", clusters=clusters)


def get_config(variant: str = "") -> ConfigDict:
  return base.alone(add, corpora, variant)
