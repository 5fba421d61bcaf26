"""Tokens that are drawn, and rows that go on as if each were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from specialization.errors import UserError
from specialization.generate import Generator, Sampling, draw

LENGTH, NEVER = 64, (-1,)
LOGITS = np.log(np.array([[0.4, 0.3, 0.2, 0.06, 0.04]], np.float32))


def shares(sampling, draws=4000):
  logits = jnp.asarray(np.repeat(LOGITS, draws, axis=0))
  found = draw(logits, jax.random.split(jax.random.key(0), draws), sampling)
  return np.bincount(found, minlength=5) / draws


@pytest.mark.parametrize(
  ("sampling", "wanted"),
  [
    (Sampling(1.0), [0.4, 0.3, 0.2, 0.06, 0.04]),
    (Sampling(0.5), [0.546, 0.307, 0.137, 0.012, 0.005]),
    (Sampling(1.0, top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
    (Sampling(1.0, top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0, 0]),
    (Sampling(1.0, top_p=0.39), [1, 0, 0, 0, 0]),
    (Sampling(1.0, top_k=3, top_p=0.7), [4 / 7, 3 / 7, 0, 0, 0]),  # of 4/9, 7/9 and all
    (Sampling(1.0, top_k=9), [0.4, 0.3, 0.2, 0.06, 0.04]),
    (Sampling(0.0), [1, 0, 0, 0, 0]),
  ],
  ids=str,
)
def test_what_is_drawn(sampling, wanted):
  found = shares(sampling)
  np.testing.assert_allclose(found, wanted, atol=0.03)
  assert not np.any(found[np.array(wanted) == 0])


@pytest.mark.parametrize("field", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}])
def test_what_cannot_be_drawn(field):
  with pytest.raises(UserError, match="at least 0, at least 0, and above 0 but at most 1"):
    Sampling(**field)


@pytest.fixture(scope="module")
def model():
  of = tiny.transformer(tie_embeddings=False)
  return of, of.initialize(jax.random.key(0))


def prompts():
  rng = np.random.default_rng(0)
  return [rng.integers(0, tiny.VOCAB, n).tolist() for n in (1, 20, 5)]


def test_the_likeliest_tokens_are_those_without_a_cache(model):
  of, params = model
  found = Generator(of, params, NEVER, LENGTH)(prompts(), 40, Sampling())
  for prompt, row in zip(prompts(), found, strict=True):
    assert len(row) == 40
    whole = jnp.asarray([prompt + row], jnp.int32)
    likeliest = np.argmax(of.logits(params, whole)[0], axis=-1)
    assert likeliest[len(prompt) - 1 : -1].tolist() == row


def test_a_row_does_not_depend_on_those_beside_it(model):
  of, params = model
  generator, sampling = Generator(of, params, NEVER, LENGTH), Sampling(1.0, top_k=20)
  together = generator(prompts(), 20, sampling, seed=3)
  for i, prompt in enumerate(prompts()):
    parts = list(generator.stream([prompt], 20, sampling, 3, first=i))
    assert [token for (part,) in parts for token in part] == together[i]
  assert generator(prompts(), 20, sampling, seed=3) == together
  assert generator(prompts(), 20, sampling, seed=4) != together
  same = generator([prompts()[0]] * 2, 20, sampling, seed=3)
  assert same[0] != same[1]


def test_rows_end_at_the_end_of_a_document(model):
  of, params = model
  whole = Generator(of, params, NEVER, LENGTH)(prompts(), 40, Sampling(1.0))
  end = whole[1][17]
  cut = [row[: row.index(end)] if end in row else row for row in whole]
  generator = Generator(of, params, (NEVER[0], end), LENGTH)
  assert generator(prompts(), 40, Sampling(1.0)) == cut
  one = prompts()[1:2]
  end = generator(one, 1, Sampling())[0][0]
  first = Generator(of, params, (end,), LENGTH).stream(one, 40, Sampling())
  assert list(first) == [[[]]]  # and nothing is computed for rows that have ended


def test_a_model_does_not_go_beyond_what_it_was_trained_on(model):
  generator = Generator(*model, NEVER, LENGTH)
  assert [len(row) for row in generator(prompts(), LENGTH - 20, Sampling())] == [44] * 3
  with pytest.raises(UserError, match=r"20 tokens and 45 more are beyond the 64 .* for 44 tokens"):
    generator(prompts(), LENGTH - 19, Sampling())
  with pytest.raises(UserError, match=r"70 tokens and 1 more are beyond .*: shorten the prompt\.$"):
    generator([[0] * 70], 1, Sampling())
