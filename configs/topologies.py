"""The paper's models, 256 experts and 7B parameters: what steps take on TPUs, with none there.

python -m specialization doctor --config=configs/topologies.py --topology=v5e:4x4 --only=slm

docs/topologies has all of them, each with its chips and mesh.
"""

from ml_collections import ConfigDict

import base
import paper
import slm_mix
import slm_pn


def get_config() -> ConfigDict:
  config = paper.get_config()
  config.name = "topologies"
  config.compute.attention = "splash"
  config.clusters.levels = (16, 32, 64, 256)
  config.sizes.dense_7b = base.size(d_model=4096, n_layers=32, n_heads=32, d_mlp=11008)
  dense, config.methods = config.methods, ConfigDict()
  config.methods.slm, config.methods.llm = dense.slm, dense.llm
  config.methods.dense_7b = base.method(config, size="dense_7b")
  for experts in (16, 256):
    slm_mix.add(config, clusters=experts)
    config.methods[f"slm_mix_{experts}"] = config.methods.slm_mix
  for experts in (32, 64):
    slm_pn.add(config, clusters=experts, groups=32)
    config.methods[f"slm_pn_{experts}"] = config.methods.slm_pn
  del config.methods.slm_mix, config.methods.slm_pn
  config.methods.slm_mix_256.pretrain.batch_rows = 1024  # four of each expert
  return config
