"""The size and the computation of studies that run on two CPU cores."""

from ml_collections import ConfigDict

import base


def use(config: ConfigDict) -> None:
  """Sets a model with 1.7M parameters beside its embeddings, and what makes it fast on a CPU."""
  config.sizes.slm = base.size(d_model=256, n_layers=2, n_heads=4, d_mlp=768)
  config.clusters.levels = (8, 32)
  config.compute.scan_unroll = 2
  config.compute.attention = "blocked"
  config.compute.attention_block = 64
  config.compute.microbatches = 4
  config.pretrain.batch_rows = 16
  config.specialize.train.batch_rows = 8
  config.specialize.evaluate_every = 20
