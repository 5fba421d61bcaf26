"""The paper's models, 256 experts and 7B parameters: what steps take on TPUs, with none there.

python -m specialization doctor --config=configs/topologies.py --topology=v5e:4x4 --only=slm

docs/topologies has all of them, each with its chips and mesh.
"""

from ml_collections import ConfigDict

import base
import paper


def get_config() -> ConfigDict:
  config = paper.get_config()
  config.name = "topologies"
  config.compute.attention = "splash"
  config.clusters.levels = (16, 32, 64, 256)
  config.sizes.dense_7b = base.size(d_model=4096, n_layers=32, n_heads=32, d_mlp=11008)
  config.methods = ConfigDict(dict(slm=config.methods.slm, llm=config.methods.llm))
  config.methods.dense_7b = base.method(config, size="dense_7b")
  for experts in (16, 256):
    row = base.method(
      config, family="mixture", strategy="balanced", clusters=experts, groups=experts
    )
    config.methods[f"slm_mix_{experts}"] = row
  for experts in (32, 64):
    config.methods[f"slm_pn_{experts}"] = base.method(
      config,
      family="projected",
      strategy="clustered",
      clusters=experts,
      groups=32,
      rank=3 * experts // 4,
      code=experts,
      spread=0.3,
    )
  config.methods.slm_mix_256.pretrain.batch_rows = 256
  return config
