"""The smallest real objects, shared by the tests."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from specialization import losses, optim, sharding
from specialization.config import ComputeConfig, MeshConfig, ModelConfig
from specialization.method import OptimizerConfig
from specialization.models import Family, Transformer, make_family
from specialization.train import state as train_state
from specialization.train import step as train_step

VOCAB, LENGTH, CLUSTERS = 96, 16, 4

MODEL = ModelConfig(
  d_model=32,
  n_layers=2,
  n_heads=4,
  n_kv_heads=2,
  d_mlp=48,
  rope_theta=10_000.0,
  norm_epsilon=1e-5,
  tie_embeddings=True,
)
COMPUTE = ComputeConfig(
  dtype="float32",
  remat="none",
  scan_unroll=1,
  attention="reference",
  attention_block=4,
  microbatches=1,
)
OPTIMIZER = OptimizerConfig(
  name="adamw",
  learning_rate=1e-2,
  schedule="constant",
  warmup_share=0.0,
  cooldown_share=0.0,
  final_share=0.0,
  b1=0.9,
  b2=0.95,
  epsilon=1e-8,
  weight_decay=0.1,
  clip_norm=1.0,
  decay=((".*(kernel|basis)", 1.0), (".*", 0.0)),
  learning_rates=((".*", 1.0),),
)
OPTIONS: dict[str, dict[str, Any]] = {
  "dense": {},
  "mixture": {},
  "projected": {"rank": 3, "code": 4, "spread": 0.3},
}
FAMILIES = tuple(OPTIONS)


def transformer(compute: ComputeConfig = COMPUTE, **changes: Any) -> Transformer:
  return Transformer(dataclasses.replace(MODEL, **changes), VOCAB, compute)


def family(name: str, clusters: int = CLUSTERS, over: Transformer | None = None) -> Family:
  return make_family(name, over or transformer(), 1 if name == "dense" else clusters, OPTIONS[name])


def batch(
  groups: int = CLUSTERS, rows: int = 2, clusters: int = CLUSTERS, seed: int = 0
) -> dict[str, np.ndarray]:
  """Random tokens, clusters in order, and masks that differ between rows."""
  rng = np.random.default_rng(seed)
  return {
    "tokens": rng.integers(0, VOCAB, (groups, rows, LENGTH + 1), dtype=np.int32),
    "cluster": (np.arange(groups) % clusters).astype(np.int32),
    "mask": rng.random((groups, rows, LENGTH)) < 0.7,
  }


def mesh(devices: int = 1, **sizes: int) -> jax.sharding.Mesh:
  config = MeshConfig(**({"expert": 1, "data": 1, "fsdp": 1, "model": 1} | sizes))
  return sharding.make_mesh(config, jax.devices()[:devices])


def trainer(
  of: Family,
  on: jax.sharding.Mesh,
  example: Mapping[str, np.ndarray],
  optimizer: OptimizerConfig = OPTIMIZER,
  complete: bool = False,
  microbatches: int = 1,
) -> tuple[train_state.TrainState, train_step.Step, Any]:
  """Returns the first state, the compiled step, and a function that puts a batch on the mesh."""
  tx = optim.make_optimizer(optimizer, 100, of.shapes(), of.axes())
  like = train_state.abstract(of, tx, on)
  groups, rows, _ = example["mask"].shape
  where = train_step.batch_shardings(on, groups, rows, LENGTH)
  step = train_step.make_step(
    of, losses.next_token, tx, on, like, where, complete=complete, microbatches=microbatches
  )
  first = train_state.create(of, tx, like, jax.random.key(0))
  return first, step, lambda b: jax.device_put(dict(b), where)
