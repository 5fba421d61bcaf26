"""What training takes on the one accelerator that is here.

PYTHONPATH=. python tests/benchmarks/accelerator.py PART...

Parts, each in a process of its own: attention (every kernel's error and time), steps (of the
paper's models, with what the config leaves to choose), torch (the same dense models in torch).
Prints tables; minutes each.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from speed import in_transformers

import specialization

CONFIGS = Path(specialization.__file__).parents[1] / "configs"
ROWS, LENGTH = 128, 1024
# Method, attention, layers in an iteration of the scan, remat, microbatches.
STEPS = [
  ("slm", "kernel", 7, "none", 4),
  ("slm_pn_32", "kernel", 7, "none", 4),
  ("slm_mix_16", "kernel", 7, "none", 4),
  ("llm", "kernel", 7, "none", 8),
  ("llm", "kernel", 7, "dots", 8),
  ("slm", "kernel", 7, "none", 2),
  ("slm", "kernel", 7, "dots", 4),
  ("slm", "kernel", 1, "none", 4),
  ("slm", "reference", 7, "none", 4),
]
TORCH = [("slm", 4, False), ("slm", 4, True), ("llm", 8, True)]  # Compiled or not.
KERNELS = {"gpu": "cudnn", "tpu": "splash"}


def line(*cells: Any) -> None:
  print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(*cells: str) -> None:
  line(*cells)
  line(*["---"] * len(cells))


def load(attention: str, unroll: int, remat: str, microbatches: int) -> Any:
  from specialization import main

  fields = ("attention", "scan_unroll", "remat", "microbatches")
  values = (attention, unroll, remat, microbatches)
  changes = {f"compute.{field}": value for field, value in zip(fields, values, strict=True)}
  return main.load_config(str(CONFIGS / "topologies.py"), changes)


def compare_attention() -> None:
  """Errors are of the norm of results and gradients, against float32 throughout."""
  import dataclasses

  import jax
  import jax.numpy as jnp

  from specialization import attention

  compute = load("reference", 1, "none", 1).compute
  kernel = KERNELS[jax.devices()[0].platform]
  head("heads", "attention", "error", "of query's gradient", "key's", "value's", "time")
  for heads in (8, 22):
    keys = jax.random.split(jax.random.key(heads), 4)
    given = [jax.random.normal(key, (16, heads, LENGTH, 128), jnp.bfloat16) for key in keys]
    *qkv, upstream = given

    def both(attend: Callable[..., Any], *x: Any) -> Any:
      result, pull_back = jax.vjp(attend, *x[:3])
      return result, *pull_back(x[3])

    with jax.default_matmul_precision("highest"):
      wide = [x.astype(jnp.float32) for x in given]
      expected = jax.jit(functools.partial(both, attention.reference))(*wide)
    for name in ("reference", "blocked", kernel):
      way = dataclasses.replace(compute, attention=name)
      of = jax.jit(functools.partial(both, functools.partial(attention.attend, compute=way)))
      found = jax.block_until_ready(of(*qkv, upstream))
      errors = [
        float(jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y))
        for x, y in zip(found, expected, strict=True)
      ]
      began = time.perf_counter()
      for _ in range(20):
        found = of(*qkv, upstream)
      jax.block_until_ready(found)
      seconds = (time.perf_counter() - began) / 20
      line(heads, name, *(f"{error:.1e}" for error in errors), f"{1e3 * seconds:.2f} ms")


def compare_steps() -> None:
  import jax

  from specialization import budgets
  from specialization.phases import build, topology, trial
  from specialization.phases.finding import size

  kind = jax.devices()[0].device_kind
  chip = budgets.CHIPS[kind]
  print(f"{kind}, jax {jax.__version__}; {ROWS * LENGTH:,} tokens a step\n")
  chosen = ("attention", "unroll", "remat", "microbatches")
  head("model", "parameters", *chosen, "memory", "step", "tokens/s", "MFU", "compiled in")
  for method, attention, *others in STEPS:
    way = KERNELS[jax.devices()[0].platform] if attention == "kernel" else attention
    config = load(way, *others)
    row = config.methods[method]
    trainer = build.pretrainer(config, row)
    cells = [method, budgets.readable(trainer.family.parameters()), way, *others]
    began = time.monotonic()
    try:
      step = trial.compile_step(trainer, row, LENGTH)
      compiled = time.monotonic() - began
      seconds = trial.seconds(trainer, row, LENGTH, step)
    except jax.errors.JaxRuntimeError as error:
      line(*cells, f"not possible: {str(error).splitlines()[0][:100]}")
      continue
    line(
      *cells,
      size(topology.memory_of(step)),
      f"{1e3 * seconds:.1f} ms",
      f"{ROWS * LENGTH / seconds:,.0f}",
      f"{trainer.flops_per_step / seconds / chip.flops:.1%}",
      f"{compiled:.0f} s",
    )


def torch_steps(method: str, microbatches: int, is_compiled: bool) -> Iterator[float]:
  """Yields seconds of steps with the same shapes, clipping and AdamW; bfloat16 by autocast."""
  import torch

  config = load("reference", 1, "none", 1)
  model, vocab_size = config.sizes[config.methods[method].size], config.tokenizer.vocab_size
  llama = in_transformers(model, vocab_size).cuda()
  parameters = list(llama.parameters())
  if is_compiled:
    llama = torch.compile(llama)
  adamw = torch.optim.AdamW(parameters, 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)
  tokens = torch.randint(0, vocab_size, (ROWS, LENGTH + 1), device="cuda")
  while True:
    torch.cuda.synchronize()
    began = time.perf_counter()
    adamw.zero_grad(set_to_none=True)
    for part in tokens.chunk(microbatches):
      with torch.autocast("cuda", torch.bfloat16):
        logits = llama(part[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
      (loss / microbatches).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    adamw.step()
    torch.cuda.synchronize()
    yield time.perf_counter() - began


def compare_torch() -> None:
  import statistics

  import torch

  print(f"torch {torch.__version__}\n")
  head("model", "torch", "microbatches", "step", "tokens/s")
  for method, microbatches, is_compiled in TORCH:
    steps = torch_steps(method, microbatches, is_compiled)
    seconds = statistics.median([next(steps) for _ in range(8)][3:])
    how = "compiled" if is_compiled else "eager"
    rate = f"{ROWS * LENGTH / seconds:,.0f}"
    line(method, how, microbatches, f"{1e3 * seconds:.1f} ms", rate)


PARTS = {"attention": compare_attention, "steps": compare_steps, "torch": compare_torch}

if __name__ == "__main__":
  if "torch" in sys.argv[1:]:
    os.environ["JAX_PLATFORMS"] = "cpu"
  for part in sys.argv[1:]:
    PARTS[part]()
