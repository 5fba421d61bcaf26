"""Three methods on the embedded corpus: text that is installed with this project.

  bash launch/quickstart.sh

Minutes on two CPU cores; README.md shows the table that comes out.
"""

import base


def get_config(variant: str = ""):
  config = base.get_config()
  config.name = "quickstart"
  config.data.domains = {
    name: dict(train=(f"embedded:{name}",), validation=(), test=()) for name in DOMAINS
  }
  config.data.max_generic_bytes = 24_000_000
  config.data.max_domain_bytes = 2_000_000
  config.data.max_evaluation_tokens = 40_000
  config.tokenizer.train_bytes = 8_000_000
  config.clusters.levels = (8, 32)
  config.sizes.slm = base.size(d_model=256, n_layers=2, n_heads=4, d_mlp=768)
  config.compute.scan_unroll = 2
  config.compute.attention = "blocked"
  config.compute.attention_block = 64
  config.pretrain.batch_rows = 16
  config.pretrain.horizon.steps = 200
  config.methods.slm = base.method(config)
  config.methods.slm_mix = base.method(
    config, family="mixture", strategy="balanced", clusters=8, groups=8
  )
  config.methods.slm_pn = base.method(
    config,
    family="projected",
    strategy="clustered",
    clusters=8,
    groups=8,
    rank=8,
    code=8,
    spread=0.3,
  )
  config.specialize.domain_tokens = (100_000,)
  config.specialize.train.batch_rows = 16
  if variant == "smoke":
    smoke(config)
  return config


DOMAINS = ("matplotlib", "scipy", "internet")


def smoke(config) -> None:
  """Everything at its smallest: for tests, in seconds."""
  config.data.max_generic_bytes = 1_000_000
  config.data.max_domain_bytes = 2_000_000
  config.data.max_evaluation_tokens = 2_000
  config.data.workers = 0
  config.sequence_length = 64
  config.tokenizer.vocab_size = 512
  config.tokenizer.train_bytes = 200_000
  config.clusters.levels = (2, 4)
  config.clusters.features = 1000
  config.clusters.dimensions = 16
  config.sizes.slm = base.size(d_model=32, n_layers=2, n_heads=2, d_mlp=48)
  config.compute.scan_unroll = 1
  config.compute.attention_block = 32
  config.pretrain.batch_rows = 8
  config.pretrain.horizon.steps = 6
  config.pretrain.checkpoint_every = 3
  config.pretrain.log_every = 2
  for row in (config.methods.slm_mix, config.methods.slm_pn):
    row.clusters = row.pretrain.groups = 2
  config.methods.slm_pn.options.rank = 2
  config.methods.slm_pn.options.code = 2
  config.specialize.domain_tokens = (4_000,)
  config.specialize.choose_tokens = 1_000
  config.specialize.train.batch_rows = 8
  config.specialize.train.horizon.steps = 4
  config.specialize.evaluate_every = 2
  config.specialize.train.log_every = 2
  config.evaluation_rows = 8
