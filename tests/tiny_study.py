"""The smallest study that has every family and every phase, on text that is made up.

As a config file, `tests/tiny_study.py:FOLDER` names the folder that `write_corpus` filled.
"""

import json
import os
import random
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "configs"))

import base  # noqa: E402

FAMILIES = ("dense", "mixture", "projected")
LAW = ("court", "judge", "appeal", "statute", "clause", "tort", "bail", "plea", "jury", "writ")
SEA = ("ship", "sail", "anchor", "tide", "harbor", "keel", "mast", "wave", "gull", "reef", "rope")


def write_corpus(folder: Path) -> None:
  """Writes generic text, and a domain with other words in validation than in training."""
  rng = random.Random(0)
  folder.mkdir(parents=True, exist_ok=True)
  for name, words in {"generic": [LAW, SEA], "law": [LAW]}.items():
    for split, documents in (("train", 60), ("validation", 4), ("test", 4)):
      topics = words if split == "train" else [SEA]
      texts = [" ".join(rng.choices(rng.choice(topics), k=40)) for _ in range(documents)]
      lines = [json.dumps({"text": f"{text}."}) + "\n" for text in texts]
      (folder / f"{name}-{split}.jsonl").write_text("".join(lines))


def arguments(verb: str, corpus: Path, workdir: Path, **overrides: object) -> list[str]:
  """Returns the command line; `__` in the name of a field stands for a dot."""
  fields = [f"--config.{name.replace('__', '.')}={value}" for name, value in overrides.items()]
  return [verb, f"--config={__file__}:{corpus}", f"--workdir={workdir}", *fields]


def environment() -> dict[str, str]:
  """Returns variables with which a subprocess compiles fast, or finds it in the tests' cache."""
  return os.environ | {
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    "PYTHONPATH": str(ROOT),
  }


def get_config(corpus: str) -> ConfigDict:
  config = base.get_config()
  config.name = "tiny"
  config.sequence_length = 16

  def sources(name: str) -> dict[str, tuple[str]]:
    return {split: (f"{corpus}/{name}-{split}.jsonl",) for split in ("train", "validation", "test")}

  config.data.generic = sources("generic")
  config.data.domains = {"law": sources("law")}
  config.data.workers = 0
  config.tokenizer.vocab_size = 300
  config.clusters.levels = (2,)
  config.clusters.dimensions = 4
  config.clusters.features = 20
  config.sizes.slm = base.size(d_model=16, n_layers=2, n_heads=2, d_mlp=16)
  for phase in (config.pretrain, config.specialize.train):
    phase.batch_rows = 16  # on eight devices too
    phase.log_every = 1
    phase.checkpoint_every = 3
  config.pretrain.horizon.steps = 8
  config.specialize.train.horizon.steps = 40  # stops at 8, since validation has other words
  config.specialize.train.optimizer.learning_rate = 0.1
  config.specialize.domain_tokens = (500,)
  config.specialize.evaluate_every = 2
  config.specialize.patience = 2
  config.evaluation_rows = 8
  config.compilation_cache = ""
  config.metrics.tensorboard = False
  config.methods.dense = base.method(config)
  for family, strategy, options in (
    ("mixture", "balanced", {}),
    ("projected", "clustered", dict(rank=2, code=2, spread=0.3)),
  ):
    config.methods[family] = base.method(
      config, family=family, strategy=strategy, clusters=2, groups=2, **options
    )
  return config
