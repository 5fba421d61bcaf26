"""Whole studies through the command line: shares of one run, every method, several processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import chex
import filelock
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import tiny_study
from specialization import artifact, main, metrics, phases
from specialization.errors import UserError
from specialization.phases.jobs import complaint

WSD = dict(pretrain__optimizer__schedule="wsd", pretrain__optimizer__cooldown_share=0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  tiny_study.write_corpus(folder)
  return folder


def params(run):
  (newest,) = [p for p in (run / "checkpoints").iterdir() if p.name == "4"]
  with ocp.StandardCheckpointer() as reader:
    return reader.restore(newest / "params")


@pytest.mark.parametrize("family", tiny_study.FAMILIES)
def test_a_branch_is_bit_equal_to_a_run_of_its_own(corpus, tmp_path, capsys, family):
  """8 steps, of which a run of half as many shares the first 2: its cool-down takes the others."""
  shares = dict(WSD, study__shares="(0.5, 1.0)")
  for name, only in {"both": "*", "alone": "*--b50--*"}.items():
    arguments = tiny_study.arguments("pretrain", corpus, tmp_path / name, **shares)
    main.main([*arguments, f"--only={family}--{only}"])
  branch, alone = (tmp_path / n / "pretrain" / f"{family}--b50--s0" for n in ("both", "alone"))
  chex.assert_trees_all_equal(params(branch), params(alone))
  said = capsys.readouterr().out
  assert f"starting from step 2 of {family}--b100--s0." in said
  assert [line["step"] for line in metrics.read(branch)] == [3, 4]
  assert not (tmp_path / "alone" / "pretrain" / f"{family}--b100--s0").exists()
  ledgers = [json.loads((f / "result.json").read_text())["ledger"] for f in (branch, alone)]
  assert ledgers[0][0]["tokens"] == ledgers[1][0]["tokens"] == 4 * 16 * 16


def test_a_constant_schedule_needs_no_step_of_its_own(corpus, tmp_path, capsys):
  """The branch is the trunk's state of step 4, and can be specialized like any other run."""
  shares = dict(pretrain__optimizer__schedule="constant", study__shares="(0.5, 1.0)")
  main.main([*tiny_study.arguments("run", corpus, tmp_path, **shares), "--only=dense"])
  assert "starting from step 4 of dense--b100--s0." in capsys.readouterr().out
  branch, trunk = (tmp_path / "pretrain" / f"dense--b{percent}--s0" for percent in (50, 100))
  chex.assert_trees_all_equal(params(branch), params(trunk))
  assert not metrics.read(branch)
  assert (tmp_path / "results" / "dense--law--500--b50--s0.json").exists()


def test_experts_can_branch_from_a_dense_run(corpus, tmp_path, capsys):
  """What came before is booked, and without a rate of their own all stay what they began as."""
  fields = dict(
    methods__mixture__branch="dense",
    methods__mixture__branch_share=0.5,
    methods__mixture__pretrain__optimizer__learning_rate=1e-30,
  )
  arguments = tiny_study.arguments("pretrain", corpus, tmp_path, **fields)
  main.main([*arguments, "--only=mixture"])
  assert "starting from the parameters of dense--b50--s0." in capsys.readouterr().out
  folder = tmp_path / "pretrain" / "mixture--b100--s0"
  ledger = json.loads((folder / "result.json").read_text())["ledger"]
  assert [(e["book"], e["phase"]) for e in ledger] == [
    ("generic", "pretrain dense--b50--s0"),
    ("generic", "pretrain mixture--b100--s0"),
  ]
  assert ledger[1]["tokens"] == 2 * ledger[0]["tokens"]
  with ocp.StandardCheckpointer() as reader:
    many = reader.restore(folder / "checkpoints" / "8" / "params")
  one = params(tmp_path / "pretrain" / "dense--b50--s0")
  for at in (0, 1):
    expert = jax.tree.map_with_path(
      lambda path, leaf, at=at: leaf[:, at] if path[0].key == "layers" else leaf[at], many
    )
    chex.assert_trees_all_close(expert, one, rtol=1e-6)
  # What has a checkpoint of its own goes on without the other's.
  (folder / "result.json").unlink()
  shutil.rmtree(tmp_path / "pretrain" / "dense--b50--s0" / "checkpoints")
  main.main([*arguments, "--only=mixture"])
  assert "starting from its own checkpoint of step 8." in capsys.readouterr().out


def test_a_branch_takes_of_the_generic_budget(corpus, whole, tmp_path):
  (small,) = books(of(whole, "dense"), "generic").values()
  fields = dict(
    methods__mixture__branch="dense",
    methods__mixture__branch_share=0.5,
    budgets__generic_flops=small["flops"],
  )
  main.main([*every("pretrain", corpus, tmp_path, **fields), "--only=mixture"])
  result = json.loads((tmp_path / "pretrain" / "mixture--b100--s0" / "result.json").read_text())
  assert [e["flops"] for e in result["ledger"]] == pytest.approx([small["flops"] / 2] * 2)


def test_specialization_can_begin_from_given_checkpoints(corpus, tmp_path, capsys):
  """As any training phase: its field is not passed over in silence."""
  main.main([*tiny_study.arguments("pretrain", corpus, tmp_path), "--only=dense"])
  state = tmp_path / "pretrain" / "dense--b100--s0" / "checkpoints"
  fields = dict(specialize__train__init_state=state, specialize__train__horizon__steps=10)
  main.main([*tiny_study.arguments("specialize", corpus, tmp_path, **fields), "--only=dense"])
  assert f"starting from the full state of {state} at step 8." in capsys.readouterr().out


def test_seeds_differ(corpus, tmp_path):
  arguments = tiny_study.arguments("pretrain", corpus, tmp_path, study__seeds="(0, 1)")
  main.main([*arguments, "--only=dense"])
  losses = [
    [line["loss"] for line in metrics.read(tmp_path / "pretrain" / f"dense--b100--s{seed}")]
    for seed in (0, 1)
  ]
  assert losses[0][0] != losses[1][0]


def every(verb, corpus, workdir, **overrides):
  verb, _, *others = tiny_study.arguments(verb, corpus, workdir, **overrides)
  return [verb, f"--config={tiny_study.ROOT}/tests/every_method.py:{corpus}", *others]


def results(workdir):
  return {p.stem: json.loads(p.read_text()) for p in sorted((workdir / "results").glob("*.json"))}


def start(corpus, workdir):
  """Starts the study in a process of its own."""
  return subprocess.Popen(
    [sys.executable, "-m", "specialization", *every("run", corpus, workdir)],
    env=tiny_study.environment() | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("every") / "study"
  process = start(corpus, workdir)
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 0, said
  return workdir


METHODS = (
  "dense",
  "large",
  "none",
  "is",
  "mixture",
  "projected",
  "projected_loss",
  "projected_all",
  "taught",
)


def of(workdir, method):
  return results(workdir)[f"{method}--law--500--b100--s0"]


def test_every_method_has_its_result(whole):
  assert {name.partition("--")[0] for name in results(whole)} == set(METHODS)


def test_methods_that_are_pretrained_alike_share_the_run(whole):
  assert {p.name.partition("--")[0] for p in (whole / "pretrain").iterdir()} == {
    *("dense", "large", "none", "is", "mixture", "projected")
  }
  assert of(whole, "projected_all")["pretraining"] == of(whole, "projected_loss")["pretraining"]


def books(record, book):
  return {e["phase"]: e for e in record["ledger"] if e["book"] == book}


def test_the_ledger_books_what_each_method_takes(whole):
  generic = {name: books(of(whole, name), "generic") for name in METHODS}
  special = {name: books(of(whole, name), "specialization") for name in METHODS}
  assert not generic["none"]
  assert not generic["is"]
  assert special["is"]["pretrain is--law--500--b100--s0"]["flops"] > 0
  assert set(generic["taught"]) == {
    "pretrain dense--b100--s0",
    "teacher: pretrain large--b100--s0",
  }
  name = "specialize large--law--500--b100--s0"
  assert special["taught"][f"teacher: {name}"] == special["large"][name] | {
    "phase": f"teacher: {name}"
  }
  assert special["taught"]["teacher: forward passes"]["flops"] > 0
  tested = books(of(whole, "dense"), "inference")["test"]
  assert tested["seconds"] > 0
  assert tested["tokens"] == sum(score["tokens"] for score in of(whole, "dense")["after"].values())
  assert special["projected_loss"]["choose the expert"]["seconds"] > 0
  experts = [phase for phase in special["projected_all"] if ", expert " in phase]
  assert len(experts) == 2
  assert "choose the expert" in special["projected_loss"]


def test_the_best_of_all_experts_is_kept(whole):
  expert = of(whole, "projected_all")["expert"]
  assert expert["cluster"] == int(np.argmin(expert["validation"]))
  assert min(loss for _, loss in of(whole, "projected_all")["curve"]) == min(expert["validation"])


def test_generic_text_is_scored_by_the_experts_of_its_clusters(whole):
  before = {method: of(whole, method)["before"] for method in METHODS}
  for method, scores in before.items():
    totals = [[scores[kind][n] for n in ("tokens", "bytes")] for kind in ("routed", "generic")]
    assert totals[0] == totals[1]
    if "mixture" not in method and "projected" not in method:
      assert scores["routed"] == scores["generic"]
  # Whichever expert was chosen for the domain.
  assert before["projected"]["routed"] == before["projected_loss"]["routed"]
  assert before["projected"]["generic"] != before["projected_loss"]["generic"]
  assert before["mixture"]["routed"] != before["mixture"]["generic"]


def test_importance_sampling_says_what_it_did(whole):
  record = of(whole, "is")["importance"]
  assert record["clusters"] == 2
  assert record["documents"] > 0
  assert of(whole, "dense")["importance"] is None


def test_without_pretraining_a_model_sees_the_domain_alone(whole):
  folders = (whole / "specialize" / f"{name}--law--500--b100--s0" for name in ("none", "dense"))
  assert [artifact.made_from(folder)["replay"] for folder in folders] == [0.0, 0.01]


def test_no_pretraining_means_drawn_parameters(whole):
  record = of(whole, "none")
  assert record["parameters"]["pretraining"] == 0
  assert record["before"]["domain"]["nats"] / record["before"]["domain"]["tokens"] > 5.5  # ln 300


@pytest.mark.parametrize("top_k", [0, 7])
def test_a_cached_teacher_teaches_the_same(corpus, whole, tmp_path, top_k, capsys):
  """All logits lie on disk in half precision, the same rows as online."""
  curves = []
  for cache in (False, True):
    workdir = tmp_path / str(cache)
    (workdir / "specialize").mkdir(parents=True)
    for part in ("data", "pretrain"):
      os.symlink(whole / part, workdir / part)
    os.symlink(
      whole / "specialize/large--law--500--b100--s0",
      workdir / "specialize/large--law--500--b100--s0",
    )
    fields = dict(distillation__cache=cache, distillation__top_k=top_k or 300)
    main.main([*every("specialize", corpus, workdir, **fields), "--only=taught"])
    folder = workdir / "specialize" / "taught--law--500--b100--s0"
    curves.append(json.loads((folder / "result.json").read_text())["curve"])
    passes = books(json.loads((folder / "result.json").read_text()), "specialization")
    passes = passes["teacher: forward passes"]
    assert (passes["seconds"] > 0) == cache  # online they are part of the fine-tuning's
  np.testing.assert_allclose(curves[0], curves[1], rtol=2e-3)
  assert re.search(r"largest logits lie in .*: \d+ bytes a token", capsys.readouterr().out)


def test_a_specialization_budget_binds(corpus, whole, tmp_path, capsys):
  spent = {
    n: sum(e["flops"] for e in books(of(whole, n), "specialization").values()) for n in METHODS
  }
  step = books(of(whole, "dense"), "specialization")["specialize dense--law--500--b100--s0"]
  step = step["flops"] / of(whole, "dense")["stopped"]["step"]
  fields = dict(budgets__specialization_flops=3.5 * step)
  main.main([*every("run", corpus, tmp_path / "3", **fields), "--only=dense"])
  assert of(tmp_path / "3", "dense")["stopped"]["step"] == 3
  fields = dict(budgets__specialization_flops=spent["is"] / 2)
  main.main([*every("run", corpus, tmp_path / "is", **fields), "--only=is"])
  record = books(of(tmp_path / "is", "is"), "specialization")
  trained = sum(e["flops"] for phase, e in record.items() if phase != "validation")
  assert 0.6 * spent["is"] / 2 < trained <= spent["is"] / 2


def test_a_generic_budget_binds(corpus, whole, tmp_path, capsys):
  (entry,) = books(of(whole, "dense"), "generic").values()
  fields = dict(budgets__generic_flops=entry["flops"] * 5.5 / 8)
  main.main([*every("pretrain", corpus, tmp_path, **fields), "--only=dense"])
  folder = tmp_path / "pretrain" / "dense--b100--s0"
  (booked,) = json.loads((folder / "result.json").read_text())["ledger"]
  assert booked["flops"] == pytest.approx(entry["flops"] * 5 / 8)


def test_a_student_and_its_teacher_share_both_budgets(corpus, whole, tmp_path):
  """The teacher leaves what its student's fine-tuning takes; the student what pretraining took."""
  (large,), (small,) = (books(of(whole, name), "generic").values() for name in ("large", "dense"))
  teacher = books(of(whole, "large"), "specialization")["specialize large--law--500--b100--s0"]
  own = books(of(whole, "taught"), "specialization")
  student = [own[p]["flops"] for p in own if p.startswith("specialize ") or "forward" in p]
  assert len(student) == 2
  fields = dict(
    methods__large__pretrain__horizon__steps=2,
    budgets__generic_flops=large["flops"] / 8 * 2 + small["flops"] / 8 * 3.5,
    budgets__specialization_flops=sum(student) + teacher["flops"] / 6 * 2.5,
  )
  main.main([*every("run", corpus, tmp_path, **fields), "--only=taught"])
  record = of(tmp_path, "taught")
  generic = books(record, "generic")
  assert generic["teacher: pretrain large--b100--s0"]["flops"] == large["flops"] / 4
  assert generic["pretrain taught--b100--s0"]["flops"] == pytest.approx(small["flops"] * 3 / 8)
  assert (record["stopped"]["step"], record["stopped"]["reason"]) == (6, "end of the schedule")
  folder = tmp_path / "specialize" / "large--law--500--b100--s0"
  stopped = json.loads((folder / "result.json").read_text())["stopped"]
  assert (stopped["step"], stopped["reason"]) == (2, "end of the budget")


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_share_a_study_also_when_one_is_killed(corpus, whole, tmp_path, killed):
  workdir = tmp_path / "study"
  first, second = start(corpus, workdir), start(corpus, workdir)
  while killed and not [*(workdir / "specialize").glob("*/result.json")]:
    time.sleep(0.05)
    assert first.poll() is None or second.poll() is None
  if killed:
    first.send_signal(signal.SIGKILL)
  said = [process.communicate(timeout=300)[0] for process in (first, second)]
  assert [first.returncode, second.returncode] == [-signal.SIGKILL if killed else 0, 0], said
  begun = [
    re.findall(r"^(\w+ [\w ,-]+): (?:.* starting from (?!its own)|perplexity)", text, re.MULTILINE)
    for text in said
  ]
  assert all(begun), "one did all of it"
  # What the killed process began last may have had no checkpoint to go on from.
  once = [*(begun[0][:-1] if killed else begun[0]), *begun[1]]
  assert len(once) == len(set(once)), "something was begun twice"
  tested = [name for name in once if name.startswith("evaluate ")]
  assert {f"evaluate {name}" for name in results(whole)} >= set(tested)
  assert killed or len(tested) == len(results(whole))
  right, found = results(whole), results(workdir)
  assert found.keys() == right.keys()
  for name, record in right.items():
    for key in ("before", "after", "stopped", "expert", "importance"):
      assert found[name][key] == record[key], (name, key)


def test_processes_write_the_report_one_after_the_other(corpus, whole, monkeypatch):
  """Each replaces the figures of the one before."""

  def write(workdir, *_):
    with pytest.raises(filelock.Timeout):
      filelock.FileLock(workdir / "locks" / "report.lock").acquire(blocking=False)
    return workdir / "report" / "report.html"

  monkeypatch.setattr(phases.report, "write", write)
  main.main(every("report", corpus, whole))


def test_cells_are_listed_with_their_states(corpus, whole, tmp_path, capsys):
  main.main(every("cells", corpus, whole))
  listed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
  assert listed == dict.fromkeys(results(whole), "done")
  path = complaint(tmp_path / "new", "specialize/large--law--500--b100--s0")
  path.parent.mkdir(parents=True)
  path.touch()
  main.main(every("cells", corpus, tmp_path / "new"))
  listed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
  assert listed["dense--law--500--b100--s0"] == "not there yet"
  student, teacher = (listed[f"{name}--law--500--b100--s0"] for name in ("taught", "large"))
  assert student == teacher == f"failed ({path})"


def test_what_is_left_out_with_only_needs_to_fit_no_budget(corpus, whole):
  """The page shows what is there, also where the config has methods that are too large."""
  small = of(whole, "dense")["parameters"]["inference"]
  arguments = every("report", corpus, whole, budgets__inference_parameters=small)
  main.main([*arguments, "--only=dense"])
  assert "Budgets" in (whole / "report" / "table.md").read_text()
  with pytest.raises(UserError, match="large deploys a model of"):
    main.main(arguments)


def test_importance_sampling_is_looked_at_before_any_training(corpus, whole, capsys):
  main.main(every("prepare", corpus, whole))
  assert re.search(
    r"^pretrain is--law--500--b100--s0: \d+ documents", capsys.readouterr().out, re.M
  )
