"""Going on from a cache is the same as reading all again."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization.cache import Cache


@pytest.mark.parametrize(
  "changes",
  [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "tie_embeddings": False}],
  ids=str,
)
def test_rows_of_any_length_go_on_as_if_read_anew(changes):
  model = tiny.transformer(**changes)
  params = model.initialize(jax.random.key(0))
  rng = np.random.default_rng(0)
  lengths, more, width = [1, 7, 4], 6, 7
  rows = [rng.integers(0, tiny.VOCAB, n + more) for n in lengths]
  anew = [model.logits(params, jnp.asarray(ids[None], jnp.int32))[0] for ids in rows]
  padded = np.zeros((3, width), np.int32)
  for row, ids, n in zip(padded, rows, lengths, strict=True):
    row[width - n :] = ids[:n]
  start = jnp.asarray([width - n for n in lengths], jnp.int32)
  cache = Cache.empty(model.config, start, width, jnp.float32)
  found, cache = model.extend(params, jnp.asarray(padded), cache)
  cache = cache.grown(width + more)
  for i in range(more + 1):
    for row, whole, n in zip(found, anew, lengths, strict=True):
      # Sums in another order, which float32 rounds otherwise: by how large the logits are.
      most = 1e-6 * float(jnp.abs(whole).max())
      chex.assert_trees_all_close(row, whole[n + i - 1], rtol=0, atol=most)
    if i < more:
      token = np.array([[ids[n + i]] for ids, n in zip(rows, lengths, strict=True)], np.int32)
      found, cache = model.extend(params, jnp.asarray(token), cache)
