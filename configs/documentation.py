"""Three methods on nine domains of a documentation corpus in the formats of c4 and the Pile.

python -m specialization run --config=configs/documentation.py --workdir=runs/documentation \
  --config.data.folder=FOLDER

FOLDER holds generic-train.*.json.gz, generic-validation.*.json.gz and
domain-NAME.{train,val,test}.jsonl.zst.
"""

from ml_collections import ConfigDict

import base
import corpora
import slm
import slm_mix
import slm_pn
import small_cpu


def get_config(variant: str = "") -> ConfigDict:
  config = base.get_config()
  config.name = "documentation"
  corpora.documentation(config)
  small_cpu.use(config)
  config.pretrain.horizon.steps = 400
  config.specialize.train.horizon.steps = 48
  for method in (slm, slm_mix, slm_pn):
    method.add(config)
  if variant == "smoke":
    corpora.smoke(config)
  return config
