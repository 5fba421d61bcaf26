"""Artifacts appear whole or not at all, and know what they were made from."""

import os
import re
import subprocess
import sys

import pytest

from specialization import artifact
from specialization.errors import UserError

WANTED = {"seed": 1, "model": {"sizes": (2, 3), "name": "small"}}


def test_the_fingerprint_is_of_the_content():
  turned = {"model": {"name": "small", "sizes": [2, 3]}, "seed": 1}
  assert artifact.fingerprint(turned) == artifact.fingerprint(WANTED)
  assert artifact.fingerprint(WANTED | {"seed": 2}) != artifact.fingerprint(WANTED)
  assert re.fullmatch("[0-9a-f]{16}", artifact.fingerprint(WANTED))


def test_flatten_joins_names_with_dots():
  tree = {"a": {"b": 1, "c": {"d": 2}}, "e": {}}
  assert artifact.flatten(tree) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_created_and_found_again(tmp_path):
  path = tmp_path / "deep" / "thing"
  assert not artifact.exists(path, WANTED)
  with artifact.create(path, WANTED) as folder:
    assert not path.exists()
    (folder / "text").write_text("whole")
  assert artifact.exists(path, WANTED)
  assert (path / "text").read_text() == "whole"
  assert artifact.fingerprint(artifact.made_from(path)) == artifact.fingerprint(WANTED)
  assert os.listdir(path.parent) == ["thing"]
  (tmp_path / "plain").mkdir()
  assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(tmp_path, error):
  def fail():
    with artifact.create(tmp_path / "thing", WANTED) as folder:
      (folder / "text").write_text("half")
      raise error

  with pytest.raises(error):
    fail()
  assert not os.listdir(tmp_path)


def test_what_a_killed_process_left_vanishes(tmp_path):
  kill = f"""
import os, pathlib
from specialization import artifact
with artifact.create(pathlib.Path({str(tmp_path)!r}) / "thing", {WANTED!r}) as folder:
  (folder / "text").write_text("half")
  os.kill(os.getpid(), 9)
"""
  assert subprocess.run([sys.executable, "-c", kill]).returncode == -9
  assert len(os.listdir(tmp_path)) == 2
  with artifact.create(tmp_path / "other", WANTED):
    pass
  assert len(os.listdir(tmp_path)) == 3
  with artifact.create(tmp_path / "thing", WANTED):
    pass
  assert sorted(os.listdir(tmp_path)) == ["other", "thing"]


@pytest.mark.parametrize(
  ("other", "named"),
  [
    ({"seed": 2}, "seed=1, but this run .* has seed=2"),
    (
      {"model": {"sizes": [2, 4], "name": "small"}},
      r"model.sizes=\[2, 3\], .*model.sizes=\[2, 4\]",
    ),
    ({"extra": "new"}, "extra='absent', .* extra='new'"),
  ],
)
@pytest.mark.parametrize("check", [artifact.exists, artifact.claim])
def test_another_origin_is_refused_by_its_field_and_both_hashes(tmp_path, check, other, named):
  artifact.claim(tmp_path, WANTED)
  with pytest.raises(UserError, match=named) as raised:
    check(tmp_path, WANTED | other)
  for origin in (WANTED, WANTED | other):
    assert artifact.fingerprint(origin) in str(raised.value)


def test_the_faster_of_two_processes_wins(tmp_path):
  with artifact.create(tmp_path / "thing", WANTED) as slow:
    with artifact.create(tmp_path / "thing", WANTED) as fast:
      (fast / "text").write_text("fast")
    (slow / "text").write_text("slow")
  assert (tmp_path / "thing" / "text").read_text() == "fast"
  assert os.listdir(tmp_path) == ["thing"]


def test_a_folder_in_the_way_is_not_overwritten(tmp_path):
  (tmp_path / "thing").mkdir()
  (tmp_path / "thing" / "mine").write_text("keep")
  with pytest.raises(UserError, match="in the way"), artifact.create(tmp_path / "thing", WANTED):
    pass
  assert os.listdir(tmp_path) == ["thing"]
  assert os.listdir(tmp_path / "thing") == ["mine"]


def test_a_claimed_folder_keeps_what_is_in_it(tmp_path):
  first = artifact.claim(tmp_path / "run", WANTED)
  (tmp_path / "run" / "text").write_text("step 3")
  assert artifact.claim(tmp_path / "run", WANTED) == first == artifact.fingerprint(WANTED)
  assert (tmp_path / "run" / "text").read_text() == "step 3"


def test_text_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "new" / "text"
  artifact.write_text(path, "old")
  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
      artifact.write_text(path, "new")
  assert path.read_text() == "old"
  artifact.write_text(path, "new")
  assert path.read_text() == "new"
