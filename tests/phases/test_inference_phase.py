"""Speeds are of what decoding adds to reading."""

import subprocess
import sys

import numpy as np

from specialization.phases import inference


def test_decoding_is_what_more_tokens_take(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(inference.time, "perf_counter", lambda: now[0])
  asked = []

  def go_on(tokens, n):
    asked.append((tokens.shape, n))
    now[0] += 5.0 + 0.5 * n  # seconds
    return np.zeros((len(tokens), n), int)

  assert inference._decoding(go_on, np.zeros((4, 255), np.int32)) == 4 / 0.5
  assert set(asked) == {((4, 16), 65), ((4, 16), 1)}
  assert inference._decoding(go_on, np.zeros((1, 15), np.int32)) == 1 / 0.5
  assert inference._decoding(lambda tokens, n: None, np.zeros((1, 15), np.int32)) == 0.0


def test_memory_is_not_that_of_who_started_the_process():
  taken = np.ones(190_000_000)  # 1.5 GB, touched
  code = "from specialization.phases import inference as i; print(i._peak())"
  said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert 50e6 < int(said.stdout) < 1e9 < taken.nbytes
