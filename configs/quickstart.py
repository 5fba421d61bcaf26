"""Three methods on the embedded corpus: text that is installed with this project.

bash launch/quickstart.sh

Minutes on two CPU cores.
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
  config.name = "quickstart"
  corpora.embedded(config)
  small_cpu.use(config)
  config.tokenizer.vocab_size = 2048
  config.pretrain.horizon.steps = 150
  config.specialize.train.horizon.steps = 48
  for method in (slm, slm_mix, slm_pn):
    method.add(config)
  if variant == "smoke":
    corpora.smoke(config)
  return config
