"""Three methods on nine domains of a documentation corpus in the formats of c4 and the Pile.

python -m specialization run --config=configs/documentation.py:FOLDER --workdir=runs/documentation

FOLDER holds generic-train.*.json.gz, generic-validation.*.json.gz and
domain-NAME.{train,val,test}.jsonl.zst; the default is ../shared/corpus.
"""

import base
import corpora
import slm
import slm_mix
import slm_pn
import small_cpu
from ml_collections import ConfigDict


def get_config(folder: str = "../shared/corpus") -> ConfigDict:
  config = base.get_config()
  config.name = "documentation"
  corpora.documentation(config, folder)
  small_cpu.use(config)
  config.pretrain.horizon.steps = 1000
  config.specialize.train.horizon.steps = 300
  for method in (slm, slm_mix, slm_pn):
    method.add(config)
  return config
