"""Corpora that the other configs share: where text comes from, and how much of it."""

from ml_collections import ConfigDict

EMBEDDED_DOMAINS = ("internet", "matplotlib", "scipy")
DOCUMENTATION_DOMAINS = (
  "anarchism",
  "django",
  "gimp",
  "git",
  "handbook_en",
  "jargon",
  "man_de",
  "postgres",
  "scipy",
)


def embedded(config: ConfigDict) -> None:
  """Documentation and source text of the packages that are installed with this project."""
  config.data.domains = {
    name: dict(train=(f"embedded:{name}",), validation=(), test=()) for name in EMBEDDED_DOMAINS
  }
  config.data.max_generic_bytes = 24_000_000
  config.data.max_domain_bytes = 4_000_000
  config.data.max_evaluation_tokens = config.data.max_generic_evaluation_tokens = 20_000
  config.tokenizer.train_bytes = 8_000_000


def documentation(config: ConfigDict) -> None:
  """Manuals, reference works and essays: generic text in c4's format, domains in the Pile's."""
  config.data.folder = "corpus"  # it does not come with the project
  config.data.generic = dict(
    train=("generic-train.*.json.gz",),
    validation=("generic-validation.*.json.gz",),
    test=(),
  )
  config.data.domains = {
    name: {
      split: (f"domain-{name}.{short}.jsonl.zst",)
      for split, short in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    for name in DOCUMENTATION_DOMAINS
  }
  config.data.max_evaluation_tokens = 25_000
  config.data.max_generic_evaluation_tokens = 100_000


def smoke(config: ConfigDict) -> None:
  """Everything at its smallest, in seconds: for tests and for a first look."""
  config.data.max_generic_bytes = 1_000_000
  config.data.max_domain_bytes = 2_000_000
  config.data.max_evaluation_tokens = config.data.max_generic_evaluation_tokens = 2_000
  config.data.workers = 0
  config.sequence_length = 64
  config.tokenizer.vocab_size = 512
  config.tokenizer.train_bytes = 200_000
  config.clusters.embedder = "tfidf"
  config.clusters.levels = (2, 4)
  config.clusters.features = 1000
  config.clusters.dimensions = 16
  for size in config.sizes.values():
    size.d_model, size.n_layers, size.n_heads, size.n_kv_heads, size.d_mlp = 32, 2, 2, 2, 48
  config.compute.scan_unroll = 1
  config.compute.attention_block = 32
  config.pretrain.batch_rows = 8
  config.pretrain.horizon.steps = 6
  config.pretrain.checkpoint_every = 3
  config.pretrain.log_every = 2
  for row in config.methods.values():
    if row.strategy in ("clustered", "balanced"):
      row.clusters = row.pretrain.groups = 2
    elif row.strategy == "importance":
      row.clusters = 4
    if row.branch:
      row.pretrain.horizon.steps = config.pretrain.horizon.steps
    if row.family == "projected":
      row.options.rank = row.options.code = 2
  config.specialize.domain_tokens = (4_000,)
  config.specialize.choose_tokens = 1_000
  config.specialize.train.batch_rows = 8
  config.specialize.train.horizon.steps = 4
  config.specialize.evaluate_every = 2
  config.specialize.train.log_every = 2
  config.evaluation_rows = 8
