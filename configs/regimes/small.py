"""Regime: small budgets of inference and of specialization, so many domains.

python -m specialization run --config=configs/regimes/small.py --workdir=runs/many

Generic training 3e13 FLOPs, shared by all domains; specialization 3e12 FLOPs for each, too few to
pretrain for a domain or to fine-tune a teacher; inference 3M parameters; 100k tokens of domain text
(arXiv 2402.01093, figure 1: the projected network, the hard mixture, or the plain small model).
"""

from ml_collections import ConfigDict

import base
import corpora
import slm
import slm_mix
import slm_nopt
import slm_pn
import small_cpu


def get_config(variant: str = "") -> ConfigDict:
  config = base.get_config()
  config.name = "small inference and specialization budgets"
  corpora.embedded(config)
  small_cpu.use(config)
  config.pretrain.horizon.steps = 100_000  # The budget ends it.
  config.budgets.generic_flops = 3e13
  config.budgets.specialization_flops = 3e12
  config.budgets.inference_parameters = 3_000_000
  config.budgets.domain_tokens = 100_000
  config.specialize.train.horizon.steps = 60
  for method in (slm, slm_nopt, slm_mix, slm_pn):
    method.add(config)
  if variant == "smoke":
    corpora.smoke(config)
  return config
