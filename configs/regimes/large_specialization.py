"""Regime: a small inference budget and a large one of specialization, so few domains.

python -m specialization run --config=configs/regimes/large_specialization.py --workdir=runs/few

Generic training 3e13 FLOPs, shared by all domains; specialization 3e13 FLOPs for each, enough to
pretrain for a domain; inference 3M parameters; 100k tokens of domain text (arXiv 2402.01093,
figure 1: importance sampling). Distillation competes: its teacher is pretrained and fine-tuned
within the same limits, with two thirds of the generic budget, but is not deployed.
"""

from ml_collections import ConfigDict

import base
import corpora
import slm
import slm_d
import slm_is
import slm_mix
import slm_pn
import small_cpu


def get_config(variant: str = "") -> ConfigDict:
  config = base.get_config()
  config.name = "a small inference and a large specialization budget"
  corpora.embedded(config)
  small_cpu.use(config)
  config.pretrain.horizon.steps = 100_000  # The budget ends it.
  config.budgets.generic_flops = 3e13
  config.budgets.specialization_flops = 3e13
  config.budgets.inference_parameters = 3_000_000
  config.budgets.domain_tokens = 100_000
  config.specialize.train.horizon.steps = 60
  for method in (slm, slm_is, slm_mix, slm_pn, slm_d):
    method.add(config)
  config.study.cells = ("slm*",)  # The teacher is too large to compete.
  if variant == "smoke":
    corpora.smoke(config)
  else:
    teacher = config.methods.llm.pretrain.horizon
    teacher.steps, teacher.flops = 0, 2e13
  return config
