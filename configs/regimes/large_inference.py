"""Regime: a large inference budget. Deploy the large model (arXiv 2402.01093, figure 1).

python -m specialization run --config=configs/regimes/large_inference.py --workdir=runs/large

Generic training 1e14 FLOPs, shared by all domains; specialization 2e13 FLOPs for each; inference
16M parameters; 100k tokens of domain text. The small model competes to show what it gives away.
"""

from ml_collections import ConfigDict

import base
import corpora
import llm
import slm
import small_cpu


def get_config(variant: str = "") -> ConfigDict:
  config = base.get_config()
  config.name = "a large inference budget"
  corpora.embedded(config)
  small_cpu.use(config)
  config.pretrain.horizon.steps = 100_000  # The budget ends it.
  config.budgets.generic_flops = 1e14
  config.budgets.specialization_flops = 2e13
  config.budgets.inference_parameters = 16_000_000
  config.budgets.domain_tokens = 100_000
  config.specialize.train.horizon.steps = 60
  for method in (slm, llm):
    method.add(config)
  if variant == "smoke":
    corpora.smoke(config)
  return config
