"""All seven methods under four budgets, on nine domains of the documentation corpus.

python -m specialization run --config=configs/documentation_study.py --workdir=runs/study \
  --config.data.folder=FOLDER

Hours on two CPU cores. Start the command again after any interruption, or start it several times
at once in one folder: no cell is done twice. FOLDER is as for documentation.py.

The small model is far smaller than those that the paper deploys, so that it sees, as theirs does,
many more tokens than it has parameters.
"""

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

METHODS = ("slm", "slm_nopt", "llm", "slm_is", "slm_mix", "slm_pn", "slm_d")
# More and fewer clusters and other choices of the expert are asked of three domains alone.
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
  config.clusters.max_length = 128
  config.pretrain.horizon.steps = 3000
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
  for clusters in (16, 256):
    slm_is.add(config, clusters=clusters, name=f"slm_is_{clusters}")
  for choose in ("lowest_loss", "all"):
    config.methods[f"slm_mix_{choose}"] = other = base.linked(config.methods.slm_mix)
    other.choose = choose
  config.methods.slm_pn_histogram = base.linked(config.methods.slm_pn)
  config.methods.slm_pn_histogram.choose = "histogram"
  config.study.shares = (0.25, 0.5, 1.0)
  config.study.seeds = (0, 1)
  config.study.cells = (
    *(f"{method}--*--s0" for method in METHODS),
    *(f"{method}--*--b100--s1" for method in ("slm", "slm_mix", "slm_pn")),
    "slm_pn_histogram--*--32000--b100--s0",
    *(
      f"{method}--{domain}--32000--b100--s0"
      for method in ("slm_is_16", "slm_is_256", "slm_mix_lowest_loss", "slm_mix_all")
      for domain in FEW
    ),
  )
  if variant == "smoke":
    corpora.smoke(config)
  return config
