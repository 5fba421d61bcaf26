"""Distillation: what the teacher says of the student's batches, now or from disk."""

import collections
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from specialization import artifact, processes
from specialization.config import DistillationConfig
from specialization.data import pipeline, teacher
from specialization.data.sampler import Sampler
from specialization.data.store import Store
from specialization.models import Params, Transformer
from specialization.phases.build import teaching
from specialization.strict import to_dict
from specialization.train.step import Batch, batch_shardings

Ask = Callable[[Params, Array], dict[str, Array]]


@functools.lru_cache(maxsize=8)
def make_ask(
  transformer: Transformer, c: DistillationConfig, mesh: Mesh, groups: int, rows: int, length: int
) -> Ask:
  """Returns (teacher's parameters, tokens [g, b, t+1]) -> parts of a batch for the loss."""
  names = teaching(c, transformer.vocab_size)
  where = batch_shardings(mesh, groups, rows, length, names)

  def of_group(params: Params, tokens: Int[Array, "b t1"]) -> dict[str, Float[Array, "b t q"]]:
    log_probs = jax.nn.log_softmax(transformer.logits(params, tokens[:, :-1]) / c.temperature)
    if "teacher_ids" not in names:
      return {"teacher_log_probs": log_probs}
    top, ids = jax.lax.top_k(log_probs, c.top_k)
    return {"teacher_log_probs": top, "teacher_ids": ids.astype(jnp.int32)}

  return jax.jit(
    jax.vmap(of_group, in_axes=(None, 0)), out_shardings={name: where[name] for name in names}
  )


def online(ask: Ask, params: Params) -> Callable[[Batch], Batch]:
  """Returns what adds the teacher's word to a batch."""
  return lambda batch: batch | ask(params, batch["tokens"])


def cached(
  ask: Ask,
  params: Params,
  made_from: dict[str, Any],
  c: DistillationConfig,
  sampler: Sampler,
  steps: int,
  stores: list[Store],
  folder: Path,
  where: Any,
  vocab_size: int,
) -> teacher.TeacherCache:
  """Returns what the teacher says of each row that the student will see, asking it only once.

  Args:
    ask, params: the teacher's.
    made_from: what made the teacher.
    c: temperature and how many logits are kept.
    sampler, steps, stores: what the student will see.
    folder: the artifact.
    where: shardings of the student's batches.
    vocab_size: of both.
  """
  sources, rows = teacher.rows_of(sampler, steps)
  wanted = {
    "teacher": artifact.fingerprint(made_from),
    "distillation": {k: v for k, v in to_dict(c).items() if k in ("temperature", "top_k")},
    "stores": [store.hash for store in stores],
    "rows": artifact.fingerprint({"sources": sources.tolist(), "rows": rows.tolist()}),
  }
  feed = pipeline.Listed(sources, rows, sampler.shape[0] * sampler.shape[1])
  reader = pipeline.Pipeline(feed, stores)

  def answers() -> Iterator[dict[str, np.ndarray]]:
    for batch in pipeline.batches(reader, where, 0, feed.steps):
      said = ask(params, batch["tokens"])
      yield {name: processes.whole(part)[0] for name, part in said.items()}

  length, sizes = stores[0].sequence_length, teaching(c, vocab_size)
  if not processes.of_writer(lambda: artifact.exists(folder, wanted)):
    if processes.is_writer():
      teacher.write(folder, wanted, (sources, rows), answers(), length, sizes, vocab_size)
    else:
      collections.deque(answers(), maxlen=0)
    processes.wait("the teacher's cache")
  cache = teacher.TeacherCache(folder)
  megabytes = len(rows) * length * cache.bytes_per_token / 1e6
  print(
    f"The teacher's {sizes['teacher_log_probs']} largest logits lie in {folder}:"
    f" {cache.bytes_per_token} bytes a token, {megabytes:.1f} MB.",
    flush=True,
  )
  return cache
