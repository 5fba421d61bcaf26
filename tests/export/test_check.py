"""What was written is compared with what was to be."""

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np
import pytest

import packages
from specialization.data.store import Store
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.export import FORMATS, Reader, check


@pytest.mark.parametrize("dtype", ["f32", "q8_0", "q4_0"])
def test_a_reader_that_makes_something_else_of_the_files_is_noticed(tmp_path, dtype):
  """As llama.cpp would, if the heads of queries were not paired: the files read back are right."""
  of = packages.transformer()
  params = packages.perturbed(of.initialize(jax.random.key(0)))
  package = dataclasses.replace(packages.package(of, params, tmp_path), begin=7)
  out, made = tmp_path / "out", FORMATS["gguf"]
  out.mkdir()
  made.write(package, out, dtype)
  back = made.weights(out, of.config)
  rows = np.random.default_rng(1).integers(0, packages.VOCAB, (9, packages.LENGTH + 1), np.int32)
  held_out = mock.Mock(spec=Store, n_rows=9)
  held_out.rows.side_effect = rows.__getitem__
  held_out.mask.side_effect = np.ones((9, packages.LENGTH), bool).__getitem__
  encode = lambda text: [7, *Tokenizer(tmp_path).encode_batch([text])[0].tolist()]  # noqa: E731

  def found(params, encode=encode, generate=None):
    reader = Reader(check.own(of, params), generate, encode)
    return dataclasses.replace(made, read=lambda _: reader)

  def likeliest(tokens, n, seen=0):
    for _ in range(n):
      logits = check.own(of, back)(tokens[:, seen:])[:, -1:]
      tokens = np.concatenate([tokens, logits.argmax(-1).astype(np.int32)], 1)
    return tokens[:, -n:]

  def checked(files):
    return check.check(package, params, files, dtype, out, held_out)

  assert f"perplexity of {9 * packages.LENGTH} held-out tokens" in checked(found(back))
  kernel = back["layers"]["attention"]["query"]["kernel"]
  heads = kernel.reshape(*kernel.shape[:2], of.config.n_heads, 2, -1).swapaxes(-1, -2)
  wrong = jax.tree.map(np.copy, back)
  wrong["layers"]["attention"]["query"]["kernel"] = heads.reshape(kernel.shape)
  with pytest.raises(UserError, match=r"was removed \(next tokens differ by 0\.\d+ nats"):
    checked(found(wrong))
  with pytest.raises(UserError, match=r"was removed \(tokens of .* differ;"):
    checked(found(back, lambda text: encode(text)[1:]))
  checked(found(back, generate=likeliest))
  with pytest.raises(
    UserError, match=r"was removed \(it goes on with tokens that are \d\.?\d* nats"
  ):
    checked(found(back, generate=functools.partial(likeliest, seen=4)))


def test_differences_are_those_of_all_rows():
  ours = np.random.default_rng(0).normal(size=(4, 5, 11))
  theirs = ours.copy()
  theirs[2, 3] += np.eye(11)[ours[2, 3].argmin()] * 20

  def logits(of):
    return lambda rows: of[rows[:, 0]]

  rows = np.arange(4)[:, None].repeat(5, 1)
  for order in (rows, rows[::-1]):
    found = check._difference(logits(ours), logits(ours), logits(theirs), order)
    assert found[:2] == (pytest.approx(20), 19 / 20)
    assert found[2] == pytest.approx(check._divergence(ours, theirs))
  near = check._difference(logits(ours), logits(theirs), logits(theirs), rows)
  assert near == (pytest.approx(20), 19 / 20, 0)
