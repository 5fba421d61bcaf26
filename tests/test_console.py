"""What the entry point tells of errors, and what it leaves out."""

import asyncio
import gc
import sys
from types import SimpleNamespace

import pytest

from specialization import main


def test_debug_shows_where(same_process, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["specialization", "run", "--config=no.py", "--debug"])
  with pytest.raises(SystemExit, match="2"):
    main.console()
  assert "Traceback" in capsys.readouterr().err


def test_only_the_noise_of_a_closed_loop_is_left_out(console, monkeypatch):
  told = []
  monkeypatch.setattr(sys, "__unraisablehook__", lambda each: told.append(str(each.exc_value)))
  console("run")
  for text in ("Event loop is closed", "a bug"):
    sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
  assert told == ["a bug"]


def test_errors_that_tasks_have_beside_the_one_that_is_raised_are_left_out(console, caplog):
  async def write():
    raise OSError("The disk is full.")

  async def write_all():
    await asyncio.wait([asyncio.ensure_future(write()) for _ in range(2)])

  console("run")
  asyncio.run(write_all())
  gc.collect()
  assert not caplog.records
