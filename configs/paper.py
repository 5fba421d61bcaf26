"""The paper's sizes on the paper's corpora: c4 and nine sets of the Pile, from the hub.

python -m specialization run --config=configs/paper.py --workdir=runs/paper

Needs `pip install -e .[hub]` and accelerators; the paper spent 10 to 650 A100-hours on generic
text and 0.02 to 130 on each domain (arXiv 2402.01093). What it leaves open is stated here: batch
size, betas, weight decay, schedule, position encoding and the gated MLP of equal size.
"""

from ml_collections import ConfigDict

import base
import llm
import slm
import slm_d
import slm_is
import slm_mix
import slm_nopt
import slm_pn

C4 = "hub:allenai/c4:en"
PILE = "hub:monology/pile-uncopyrighted"
DOMAINS = {  # Our name: the Pile's.
  "arxiv": "ArXiv",
  "europarl": "EuroParl",
  "freelaw": "FreeLaw",
  "gutenberg": "Gutenberg (PG-19)",
  "opensubtitles": "OpenSubtitles",
  "openwebtext2": "OpenWebText2",
  "pubmed_abstracts": "PubMed Abstracts",
  "stackexchange": "StackExchange",
  "wikipedia": "Wikipedia (en)",
}


def get_config() -> ConfigDict:
  config = base.get_config()
  config.name = "paper"
  config.sequence_length = 1024
  config.data.generic = dict(train=(f"{C4}:train",), validation=(f"{C4}:validation",), test=())
  config.data.domains = {
    name: {split: (f"{PILE}:{split}?pile_set_name={pile}",) for split in SPLITS}
    for name, pile in DOMAINS.items()
  }
  config.data.max_domain_bytes = 400_000_000  # more than the 64M tokens that are used
  config.data.max_evaluation_tokens = config.data.max_generic_evaluation_tokens = 1_000_000
  config.data.workers = 16
  config.tokenizer.vocab_size = 32_000
  config.tokenizer.train_bytes = 2_000_000_000
  config.clusters.embedder = "sentence_bert"
  config.clusters.encoder = "hub:sentence-transformers/all-MiniLM-L6-v2"
  config.clusters.fit_documents = 1_000_000
  config.clusters.levels = (16, 32, 64, 256, 1024)
  config.sizes.slm = base.size(d_model=1024, n_layers=7, n_heads=8, d_mlp=2816)
  config.sizes.llm = base.size(d_model=2816, n_layers=7, n_heads=22, d_mlp=7680)
  config.compute.dtype = "bfloat16"
  config.compute.remat = "dots"
  # 131k tokens a step; 1,000 steps of warm-up.
  config.pretrain.batch_rows = 128
  config.pretrain.horizon.steps = 400_000
  config.pretrain.optimizer.learning_rate = 1e-4
  config.pretrain.optimizer.warmup_share = 1_000 / 400_000
  config.pretrain.optimizer.clip_norm = 5.0
  config.pretrain.checkpoint_every = 2_000
  slm.add(config)
  slm_nopt.add(config)
  llm.add(config)
  slm_is.add(config, clusters=1024)
  slm_mix.add(config, clusters=16)
  slm_pn.add(config, clusters=32, groups=32)
  slm_d.add(config)
  config.specialize.domain_tokens = (1_000_000, 8_000_000, 64_000_000)
  config.specialize.evaluate_every = 200
  config.specialize.train.batch_rows = 64
  config.specialize.train.optimizer.learning_rate = 1e-4
  config.specialize.train.optimizer.clip_norm = 5.0
  config.evaluation_rows = 64
  return config


SPLITS = ("train", "validation", "test")
