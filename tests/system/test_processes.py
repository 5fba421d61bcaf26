"""Several processes with several devices each do what one process does."""

import json
import re
import signal
import time

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import several
import tiny_study
from specialization import metrics

STEPS = 20
LAYOUTS = {"2x2": (2, 2), "4x2": (4, 2)}
MESH = dict(mesh__expert=2, mesh__data=-1)


def arguments(corpus, workdir, verb="run", **fields):
  study = dict(pretrain__horizon__steps=STEPS, pretrain__log_every=1, pretrain__checkpoint_every=10)
  return tiny_study.arguments(verb, corpus, workdir, **(study | MESH | fields))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  tiny_study.write_corpus(folder)
  return folder


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
  """Holds the same study, made by one process with four devices and by several."""
  folder = tmp_path_factory.mktemp("processes")
  for name, layout in {"one": (1, 4), **LAYOUTS}.items():
    several.run(*layout, arguments(corpus, folder / name), folder / f"{name}-said")
  return folder


def restored(run):
  path = run / "checkpoints" / str(STEPS) / "params"
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  with ocp.PyTreeCheckpointer() as reader:
    like = reader.metadata(path).item_metadata.tree
    return reader.restore(path, restore_args=jax.tree.map(lambda _: as_numpy, like))


@pytest.mark.parametrize("family", tiny_study.FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_is_that_of_one_process(folder, layout, family):
  one, many = (folder / name / "pretrain" / f"{family}--b100--s0" for name in ("one", layout))
  losses = [[line["loss"] for line in metrics.read(run)] for run in (one, many)]
  assert len(losses[1]) == STEPS
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  chex.assert_trees_all_close(restored(many), restored(one), atol=1e-5)


@pytest.mark.parametrize("family", tiny_study.FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_those_of_one_process(folder, layout, family):
  one, many = (
    json.loads((folder / name / "results" / f"{family}--law--500--b100--s0.json").read_text())
    for name in ("one", layout)
  )
  assert (many["stopped"], many["expert"]) == (one["stopped"], one["expert"])
  for when in ("before", "after"):
    for kind, score in one[when].items():
      assert many[when][kind]["tokens"] == score["tokens"]
      np.testing.assert_allclose(many[when][kind]["nats"], score["nats"], rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_process_speaks_and_writes(folder, layout):
  count, _ = LAYOUTS[layout]
  said = [(folder / f"{layout}-said" / f"process-{i}.txt").read_text() for i in range(count)]
  assert "all is done" in said[0]
  assert all("pretrain" not in text and "report" not in text for text in said[1:])
  for family in tiny_study.FAMILIES:
    lines = metrics.read(folder / layout / "pretrain" / f"{family}--b100--s0")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("family", ["mixture", "projected"])
def test_a_run_goes_on_with_other_processes_devices_and_meshes(corpus, tmp_path, family):
  """4 x 2 devices, stopped by SIGTERM to one of them; then 1 x 8; then 2 x 1 to the end."""
  only = f"--only={family}--*"
  workdir, whole = tmp_path / "study", tmp_path / "whole"
  long = dict(pretrain__horizon__steps=200, pretrain__checkpoint_every=50)
  presets = (
    dict(mesh__expert=2, mesh__data=1, mesh__fsdp=4),
    dict(mesh__expert=1, mesh__data=2, mesh__fsdp=2, mesh__model=2),
    dict(mesh__expert=1, mesh__data=-1, mesh__fsdp=1, mesh__model=1),
  )
  reached = []
  for (count, devices), mesh, until in zip(((4, 2), (1, 8)), presets[:2], (20, 90), strict=True):
    line = [*arguments(corpus, workdir, "pretrain", **long, **mesh), only]
    with several.started(count, devices, line, tmp_path) as running:
      wait_for(workdir, family, until, running, tmp_path)
      running[-1].send_signal(signal.SIGTERM)
      statuses = [process.wait(timeout=60) for process in running]
    said = (tmp_path / "process-0.txt").read_text()
    assert statuses == [128 + signal.SIGTERM] * count, said
    reached.append(int(re.findall(r"terminated, and saved at step (\d+)", said)[-1]))
  line = [*arguments(corpus, workdir, "pretrain", **long, **presets[2]), only]
  said = several.run(2, 1, line, tmp_path)
  assert f"starting from its own checkpoint of step {reached[1]} of 1 x 8 devices (" in said
  assert "data=2, fsdp=2, model=2), now 2 x 1 devices (expert=1, data=2, fsdp=1, model=1)." in said
  assert 20 <= reached[0] < reached[1] < 200
  line = [*arguments(corpus, whole, "pretrain", **long, **presets[2]), only]
  several.run(1, 1, line, tmp_path)
  losses = [
    [line["loss"] for line in metrics.read(study / "pretrain" / f"{family}--b100--s0")]
    for study in (whole, workdir)
  ]
  assert len(losses[0]) == 200
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def wait_for(workdir, family, step, running, folder):
  """Returns when a run has logged a step."""
  run = workdir / "pretrain" / f"{family}--b100--s0"
  for _ in range(2400):
    lines = metrics.read(run)
    if lines and lines[-1]["step"] >= step:
      return
    assert all(process.poll() is None for process in running), several.said(running, folder)
    time.sleep(0.05)
  raise AssertionError(f"{run} did not come to step {step}.")


def test_who_is_missing_is_named(corpus, tmp_path):
  line = [*arguments(corpus, tmp_path / "study"), "--meet_within=5"]
  with several.started(3, 1, line, tmp_path, present=(0, 2)) as running:
    statuses = [process.wait(timeout=100) for process in running]
  assert statuses == [2, 2]
  said = (tmp_path / "process-0.txt").read_text().splitlines()[-1]
  assert said.startswith("error: 1 of 3 processes did not come within 5 s: process 1")


def test_processes_that_were_started_otherwise_all_say_so(corpus, tmp_path):
  line = arguments(corpus, tmp_path / "study")
  own = {1: ["--config.seed=7"]}
  with several.started(2, 1, line, tmp_path, own=own) as running:
    statuses = [process.wait(timeout=100) for process in running]
  assert statuses == [2, 2]
  for index in range(2):
    said = several.said_by(index, tmp_path).splitlines()[-1]
    assert said.startswith("error: Process 1 was started with another verb, config or folder")
  assert not (tmp_path / "study").exists()


def test_a_signal_before_training_ends_all_soon(corpus, tmp_path):
  """When they next ask for it one of them tells the others; a step later all know."""
  workdir = tmp_path / "study"
  with several.started(2, 1, arguments(corpus, workdir), tmp_path) as running:
    for _ in range(2400):
      if workdir.exists():
        break
      time.sleep(0.02)
    running[1].send_signal(signal.SIGTERM)
    statuses = [process.wait(timeout=100) for process in running]
  assert statuses == [128 + signal.SIGTERM] * 2
  assert "erminated" in several.said_by(0, tmp_path)
  steps = [line["step"] for line in metrics.read(workdir / "pretrain/dense--b100--s0")]
  assert max(steps, default=0) <= 5
