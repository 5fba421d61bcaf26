"""All seven methods under four budgets, on nine domains of the documentation corpus.

python -m specialization run --config=configs/documentation_study.py --workdir=runs/study \
  --config.data.folder=FOLDER

Hours on two CPU cores. Start the command again after any interruption, or start it several times
at once in one folder: no cell is done twice. FOLDER is as for documentation.py.

The small model is far smaller than those that the paper deploys, so that it sees, as theirs does,
many more tokens than it has parameters.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

import base
import corpora
import llm
import slm
import slm_d
import slm_is
import slm_mix
import slm_nopt
import slm_pn
import small_cpu

# Rate of pretraining and factor of fine-tuning's: the best on validation text of two domains, of
# the same grid for each (documentation_sweep.py).
RATES = {
  "slm": (4e-3, 1.0),
  "slm_nopt": (4e-3, 2.0),
  "llm": (2e-3, 1.0),
  "slm_is": (4e-3, 1.0),
  "slm_mix": (1e-3, 2.0),
  "slm_pn": (4e-3, 1.0),
  "slm_d": (4e-3, 2.0),
}
METHODS = tuple(RATES)
# Numbers of clusters for importance sampling and choices of an expert are asked of three domains.
FEW = ("django", "git", "scipy")


def get_config(variant: str = "") -> ConfigDict:
  config = base.get_config()
  config.name = "documentation study"
  corpora.documentation(config)
  small_cpu.use(config)
  config.tokenizer.vocab_size = 2048
  config.sizes.slm = base.size(d_model=128, n_layers=2, n_heads=2, d_mlp=384)
  config.sizes.llm = base.size(d_model=256, n_layers=4, n_heads=4, d_mlp=768)
  config.clusters.levels = (4, 16, 64, 256)
  config.clusters.embedder = "sentence_bert"
  config.clusters.fit_documents = 30_000
  config.clusters.max_length = 128
  config.pretrain.horizon.steps = 2000
  config.pretrain.optimizer.schedule = "wsd"
  config.specialize.train.horizon.steps = 400
  # As the paper's three amounts: little text at a lower rate, few passes over it.
  config.specialize.recipe = ((32_000, 0.5, 80), (128_000, 1.0, 160), (0, 1.0, 400))
  config.specialize.domain_tokens = (32_000, 128_000, 512_000)
  config.importance.tokens = 32_000
  config.distillation.top_k = 0
  slm.add(config)
  slm_nopt.add(config)
  llm.add(config)
  slm_is.add(config, clusters=64)
  slm_mix.add(config, clusters=16)
  slm_pn.add(config, clusters=16, groups=8)
  slm_d.add(config)
  for method, (rate, factor) in RATES.items():
    config.methods[method].pretrain.optimizer.learning_rate = rate
    config.methods[method].fine_tuning_rate = factor
  config.study.shares = (0.06, 0.25, 0.5, 1.0)
  config.study.seeds = (0, 1)
  config.study.cells = (
    *(f"{method}--*--b100--s0" for method in METHODS),
    *(f"{method}--*--32000--b{share}--s0" for method in METHODS for share in (25, 50)),
    "slm--*--32000--b6--s0",  # As many tokens as each expert of 16 sees.
    *(
      f"{method}--*--{tokens}--b100--s1"
      for method in ("slm", "slm_mix", "slm_pn")
      for tokens in (32_000, 512_000)
    ),
    *_variants(config),
  )
  if variant == "smoke":
    corpora.smoke(config)
  return config


def part(name: str, methods: Sequence[str], shares: Sequence[float]) -> ConfigDict:
  """Returns some of its methods, with the least domain text and one seed."""
  config = get_config()
  config.name = name
  config.specialize.domain_tokens = config.specialize.domain_tokens[:1]
  config.study.shares = tuple(shares)
  config.study.seeds = (0,)
  config.study.cells = tuple(f"{method}--*" for method in methods)
  return config


def _variants(config: ConfigDict) -> list[str]:
  """Adds numbers of clusters, choices of the expert and branches; returns their cells."""
  methods, few, wide = config.methods, [], []
  for clusters in (16, 256):
    methods[f"slm_is_{clusters}"] = base.linked(methods.slm_is)
    methods[f"slm_is_{clusters}"].clusters = clusters
    few.append(f"slm_is_{clusters}")
  for choose in ("lowest_loss", "all"):
    methods[f"slm_mix_{choose}"] = base.linked(methods.slm_mix)
    methods[f"slm_mix_{choose}"].choose = choose
    few.append(f"slm_mix_{choose}")
  for family, clusters in (("mix", 4), ("pn", 4), ("pn", 64)):
    methods[f"slm_{family}_{clusters}"] = other = base.linked(methods[f"slm_{family}"])
    other.clusters = clusters
    other.pretrain.groups = min(clusters, 8)
    if family == "pn":
      other.options.rank, other.options.code = 3 * clusters // 4, clusters
    wide.append(f"slm_{family}_{clusters}")
  # As many tokens in all, the first of them generic and shared.
  for method, share, names in (("slm_mix", 0.25, wide), ("slm_is", 0.5, few)):
    methods[f"{method}_branch"] = other = base.linked(methods[method])
    other.branch, other.branch_share = "slm", share
    other.pretrain.horizon.steps = round((1 - share) * config.pretrain.horizon.steps)
    names.append(f"{method}_branch")
  for choose in ("histogram", "lowest_loss"):
    methods[f"slm_pn_{choose}"] = base.linked(methods.slm_pn)
    methods[f"slm_pn_{choose}"].choose = choose
    wide.append(f"slm_pn_{choose}")
  return [
    *(f"{method}--{domain}--32000--b100--s0" for method in few for domain in FEW),
    *(f"{method}--*--32000--b100--s0" for method in wide),
  ]
