"""Speed on this machine, side by side: python tests/benchmarks/speed.py [part ...]

Parts: torch (dense training against the same model in torch), families (projected network and hard
mixture against dense), data (the pipeline against training). Steps of what is compared take turns,
so that a machine whose speed drifts is as unfair to the one as to the other; a ratio is the median
over turns. Prints one JSON line per comparison.
"""

import contextlib
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from specialization.main import use_huge_pages

VOCAB, LENGTH = 4096, 256
SIZES = {"5M": (256, 4, 1024), "25M": (512, 6, 1792)}
MICROBATCHES = {"5M": 4, "25M": 8}  # of 16 rows, that are fastest here


def model_config(size: str) -> Any:
  from specialization.config import ModelConfig

  d_model, n_layers, d_mlp = SIZES[size]
  heads = d_model // 64
  return ModelConfig(d_model, n_layers, heads, heads, d_mlp, 10_000.0, 1e-5, True)


def ours(
  size: str, rows: int, family: str = "dense", groups: int = 1, microbatches: int = 1
) -> Callable[[], None]:
  """Returns a training step with the project's own parts, on random tokens."""
  import jax

  from specialization import losses, optim, sharding
  from specialization.config import ComputeConfig, MeshConfig, OptimizerConfig
  from specialization.models import Transformer, make_family
  from specialization.train import state as train_state
  from specialization.train import step as train_step

  model = model_config(size)
  compute = ComputeConfig("float32", "none", model.n_layers, "blocked", 64, microbatches)
  options = {"rank": 12, "code": 16, "spread": 0.3} if family == "projected" else {}
  clusters = 1 if family == "dense" else 16
  of = make_family(family, Transformer(model, VOCAB, compute), clusters, options)
  mesh = sharding.make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
  adamw = OptimizerConfig(
    name="adamw",
    learning_rate=1e-3,
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
  tx = optim.make_optimizer(adamw, 1000, of.shapes(), of.axes())
  like = train_state.abstract(of, tx, mesh)
  b = rows // groups
  where = train_step.batch_shardings(mesh, groups, b, LENGTH)
  step = train_step.make_step(
    of,
    losses.next_token,
    tx,
    mesh,
    like,
    where,
    complete=family == "mixture",
    microbatches=microbatches,
  )
  state = train_state.create(of, tx, like, jax.random.key(0))
  rng = np.random.default_rng(0)
  batch = {
    "tokens": rng.integers(0, VOCAB, (groups, b, LENGTH + 1)).astype(np.int32),
    "cluster": (np.arange(groups) % clusters).astype(np.int32),
    "mask": np.ones((groups, b, LENGTH), bool),
  }
  batch = jax.device_put(batch, where)

  def run() -> None:
    nonlocal state
    state, metrics = step(state, batch)
    metrics["loss"].block_until_ready()

  return run


def in_transformers(model: Any, vocab_size: int) -> Any:
  """Returns the same transformer in torch."""
  import transformers

  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=vocab_size,
      hidden_size=model.d_model,
      intermediate_size=model.d_mlp,
      num_hidden_layers=model.n_layers,
      num_attention_heads=model.n_heads,
      num_key_value_heads=model.n_kv_heads,
      tie_word_embeddings=True,
      attn_implementation="sdpa",
    )
  )


def in_torch(size: str, rows: int, compiled: bool, microbatches: int = 1) -> Callable[[], None]:
  """Returns a training step of the same model in torch: same shapes, clipping and AdamW."""
  import torch

  llama = in_transformers(model_config(size), VOCAB)
  parameters = list(llama.parameters())
  if compiled:
    llama = torch.compile(llama)
  adamw = torch.optim.AdamW(parameters, 1e-3, (0.9, 0.95), weight_decay=0.1, fused=True)
  tokens = torch.randint(0, VOCAB, (rows, LENGTH + 1))

  def run() -> None:
    adamw.zero_grad(set_to_none=True)
    for part in tokens.chunk(microbatches):
      logits = llama(part[:, :-1], use_cache=False).logits
      loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
      (loss / microbatches).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    adamw.step()

  return run


def take_turns(
  steps: dict[str, Callable[[], None]], turns: int, length: int = 3
) -> dict[str, np.ndarray]:
  """Returns the mean seconds of a step in each turn, after one turn that is not counted.

  A turn is `length` steps after one that is not counted: a process that had to wait first gets its
  memory and caches back, which no training run pays.
  """
  seconds: dict[str, list[float]] = {name: [] for name in steps}
  for turn in range(-1, turns):
    for name, run in steps.items():
      run()
      started = time.perf_counter()
      for _ in range(length):
        run()
      if turn >= 0:
        seconds[name].append((time.perf_counter() - started) / length)
  return {name: np.array(found) for name, found in seconds.items()}


def show(what: str, tokens: int, seconds: dict[str, np.ndarray], base: str) -> dict[str, Any]:
  """Prints tokens/s and step-time ratios against `base`."""
  out = {
    "what": what,
    "tokens_per_step": tokens,
    "tokens_per_second": {n: round(tokens / float(np.median(s))) for n, s in seconds.items()},
    "step_time_ratio": {
      n: round(float(np.median(s / seconds[base])), 3) for n, s in seconds.items() if n != base
    },
  }
  print(json.dumps(out), flush=True)
  return out


def _serve(pipe: Any, make: Callable[..., Callable[[], None]], arguments: tuple) -> None:
  run = make(*arguments)
  while pipe.recv():
    run()
    pipe.send(True)


@contextlib.contextmanager
def apart(make: Callable[..., Callable[[], None]], *arguments: Any) -> Iterator[Callable[[], None]]:
  """Yields a step that runs in a process of its own.

  With both in one process, torch's threads slow those of XLA.
  """
  context = multiprocessing.get_context("spawn")
  here, there = context.Pipe()
  process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
  process.start()

  def run() -> None:
    here.send(True)
    here.recv()

  yield run
  here.send(False)
  process.join()


def compare_torch(turns: int = 7) -> None:
  for size in SIZES:
    with contextlib.ExitStack() as stack:
      steps = {"ours": stack.enter_context(apart(ours, size, 16, "dense", 1, MICROBATCHES[size]))}
      for compiled, microbatches in itertools.product((False, True), (1, MICROBATCHES[size])):
        name = f"torch_{'compiled' if compiled else 'eager'}_{microbatches}"
        steps[name] = stack.enter_context(apart(in_torch, size, 16, compiled, microbatches))
      show(f"dense {size} against torch", 16 * LENGTH, take_turns(steps, turns), "ours")


def compare_families(turns: int = 9) -> None:
  for rows in (16, 64):
    steps = {
      "dense": ours("5M", rows, microbatches=rows // 4),
      "projected_16_groups": ours("5M", rows, "projected", 16, rows // 4),
      "projected_8_groups": ours("5M", rows, "projected", 8, rows // 4),
      "mixture": ours("5M", rows, "mixture", 16, rows // 4),
    }
    show(f"families 5M, {rows} rows", rows * LENGTH, take_turns(steps, turns), "dense")


def compare_data(turns: int = 3) -> None:
  """A store of random tokens, read as a training run reads it."""
  import jax

  from specialization import artifact
  from specialization.data import pipeline, sampler, store
  from specialization.train import step as train_step

  rows, clusters, steps = 16, 16, 200
  with tempfile.TemporaryDirectory() as folder:
    path, n = Path(folder) / "store", 20_000
    rng = np.random.default_rng(0)
    with artifact.create(path, {"sequence_length": LENGTH, "by_leaf": True}) as inside:
      np.save(inside / "rows.npy", rng.integers(0, VOCAB, (n, LENGTH + 1)).astype(np.uint16))
      np.save(inside / "lengths.npy", np.full(n, LENGTH + 1, np.int32))
      np.save(inside / "offsets.npy", np.linspace(0, n, clusters + 1).astype(np.int64))
      np.save(inside / "doc_leaf.npy", np.zeros(1, np.int32))
      np.save(inside / "doc_tokens.npy", np.zeros(1, np.int32))
      totals = {"documents": 1, "tokens": n * (LENGTH + 1), "bytes": n}
      (inside / "totals.json").write_text(json.dumps(totals))
    edges = np.linspace(0, n, clusters + 1).astype(np.int64)
    picks = sampler.ClusterSampler(
      np.stack([edges[:-1], edges[1:]], 1), [(0, np.full(clusters, 1 / clusters))], 8, rows // 8, 0
    )
    feed = pipeline.Pipeline(picks, [store.Store(path)])
    from specialization import sharding
    from specialization.config import MeshConfig

    mesh = sharding.make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
    where = train_step.batch_shardings(mesh, 8, rows // 8, LENGTH)

    def read() -> None:
      for batch in pipeline.batches(feed, where, 0, steps):
        batch["tokens"].block_until_ready()

    def train() -> None:
      for _ in range(2):
        step()

    step = ours("5M", rows, microbatches=4)
    seconds = take_turns({"training": train, "data": read}, turns)
    per_step = {"training": seconds["training"] / 2, "data": seconds["data"] / steps}
    show("data pipeline against training 5M", rows * LENGTH, per_step, "data")


PARTS = {"torch": compare_torch, "families": compare_families, "data": compare_data}

if __name__ == "__main__":
  use_huge_pages()
  for part in sys.argv[1:] or PARTS:
    PARTS[part]()
