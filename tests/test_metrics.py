"""The metrics file of a run that was killed, and TensorBoard's."""

import json
import os
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from specialization import metrics


def writer(folder, from_step=0, tensorboard=False):
  return metrics.Writer(folder, from_step=from_step, tensorboard=tensorboard, wandb_project="")


def steps(folder):
  return [line["step"] for line in metrics.read(folder)]


def test_scalars_are_read_as_they_were_written(tmp_path):
  with_board = writer(tmp_path / "run")
  with_board.write(1, {"loss": 0.1 + 0.2, "tokens": 7})
  assert metrics.read(tmp_path / "run") == [{"step": 1, "loss": 0.1 + 0.2, "tokens": 7}]
  assert not metrics.read(tmp_path / "nothing")
  with_board.close()


@pytest.mark.parametrize("cut", ['{"step": 3, "lo', '{"step": 3', "{"])
def test_a_line_cut_by_a_kill_is_left_out_and_mended(tmp_path, cut):
  whole = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2))
  (tmp_path / "metrics.jsonl").write_text(whole + cut)
  assert steps(tmp_path) == [1, 2]
  resumed = writer(tmp_path, from_step=2)
  resumed.write(3, {"loss": 1.0})
  resumed.close()
  assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("from_step", [-1, 0, 2, 5])
def test_steps_after_the_resumed_one_are_purged(tmp_path, from_step):
  killed = writer(tmp_path, from_step=-1)
  for step in range(6):
    killed.write(step, {"loss": 1.0})
  killed.close()
  writer(tmp_path, from_step=from_step).close()
  assert steps(tmp_path) == list(range(from_step + 1))


def test_a_kill_while_purging_loses_nothing(tmp_path, monkeypatch):
  killed = writer(tmp_path)
  killed.write(1, {"loss": 1.0})
  killed.close()

  def die(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", die)
  with pytest.raises(KeyboardInterrupt):
    writer(tmp_path, from_step=1)
  assert steps(tmp_path) == [1]


def test_tensorboard_gets_the_scalars_and_the_purge(tmp_path):
  resumed = writer(tmp_path, from_step=3, tensorboard=True)
  resumed.write(4, {"loss": 2.5})
  resumed.close()
  (path,) = tmp_path.glob("events.*")
  content, events = path.read_bytes(), []
  while content:
    (size,) = struct.unpack("<Q", content[:8])
    events.append(Event.FromString(content[12 : 12 + size]))
    content = content[16 + size :]
  assert [e.step for e in events if e.session_log.status == e.session_log.START] == [4]
  scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
  assert scalars == [(4, "loss", 2.5)]
