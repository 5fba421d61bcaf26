"""Strings on which tokenizers are compared: words, any characters, and each of Unicode's once."""

import random
from collections.abc import Iterator, Sequence

POINTS = (*range(0xD800), *range(0xE000, 0x110000))


def odd(words: Sequence[str], count: int = 1000) -> Iterator[str]:
  """Yields `count` strings of words and as many of any characters, and then the others."""
  rng = random.Random(0)
  for _ in range(count):
    yield " ".join(rng.choices(words, k=rng.randrange(1, 30)))
    yield "".join(map(chr, rng.choices(POINTS, k=rng.randrange(1, 100))))
  yield from ("".join(map(chr, POINTS[i : i + 4096])) for i in range(0, len(POINTS), 4096))
  yield "To end: <|endoftext|> is a token.\n\n\n  And that's 1234567 of them, weren\u2019t it?"
