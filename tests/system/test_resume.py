"""A study that is killed again and again ends with the same bits as one that is not."""

import hashlib
import json
import re
import subprocess
import sys

import chex
import jax
import orbax.checkpoint as ocp
import pytest

import tiny_study
from specialization import main, metrics
from specialization.errors import UserError

FAMILIES = tiny_study.FAMILIES
PHASES = ("pretrain", "specialize")
DEATHS = (  # see deaths.py; pretraining saves at 3, 6 and 8, specialization also at 2 and 4
  *("prepare:generic", "prepare:clusters", "prepare:law"),
  "between:pretrain/dense:5",
  "writing:pretrain/mixture:6",
  "written:pretrain/projected:6",
  "writing:pretrain/projected:8",
  "written:specialize/dense:6",
  "between:specialize/mixture:7",
  "writing:specialize/projected:4",
  "written:specialize/projected:8",
)


def run(folder, name, moments):
  """Runs the study `name` with deaths at some moments; returns what it said."""
  script = tiny_study.ROOT / "tests" / "system" / "deaths.py"
  arguments = tiny_study.arguments("run", folder / "corpus", folder / name)
  ran = subprocess.run(
    [sys.executable, script, *moments, "--", *arguments],
    env=tiny_study.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
  )
  assert ran.returncode == 0, ran.stdout
  return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds the same study twice: `whole`, and `killed` at all of DEATHS."""
  folder = tmp_path_factory.mktemp("resume")
  tiny_study.write_corpus(folder / "corpus")
  for name, moments in {"whole": (), "killed": DEATHS}.items():
    (folder / f"{name}.txt").write_text(run(folder, name, moments))
  return folder


def of(folder, phase, family):
  domain = "" if phase == "pretrain" else "law--500--"
  return folder / phase / f"{family}--{domain}b100--s0"


def checkpoints(folder):
  return {path.name: path for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("phase", PHASES)
def test_parameters_and_optimizer_are_bit_equal(folder, phase, family):
  whole, killed = (checkpoints(of(folder / name, phase, family)) for name in ("whole", "killed"))
  assert whole.keys() == killed.keys() == ({"8"} if phase == "pretrain" else {"4", "8"})
  with ocp.StandardCheckpointer() as reader:
    for step, path in whole.items():
      for item in ("params", "optimizer"):
        right, found = (reader.restore(p / item) for p in (path, killed[step]))
        assert len(jax.tree.leaves(right)) > 5
        chex.assert_trees_all_equal(found, right)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("phase", PHASES)
def test_the_metrics_have_each_step_once(folder, phase, family):
  lines = {
    name: [
      {key: value for key, value in line.items() if key != "tokens_per_second"}
      for line in metrics.read(of(folder / name, phase, family))
    ]
    for name in ("whole", "killed")
  }
  assert [line["step"] for line in lines["killed"] if "loss" in line] == list(range(1, 9))
  assert lines["killed"] == lines["whole"]


@pytest.mark.parametrize("family", FAMILIES)
def test_early_stopping_remembers(folder, family):
  whole, killed = (
    json.loads((of(folder / name, "specialize", family) / "result.json").read_text())
    for name in ("whole", "killed")
  )
  assert whole["stopped"] == {"step": 8, "reason": "no improvement in 2 looks", "best_step": 4}
  for key in ("stopped", "curve", "mixture", "expert", "used_tokens"):
    assert killed[key] == whole[key]


@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_equal_and_both_runs_are_paid_for(folder, family):
  whole, killed = (
    json.loads((folder / name / "results" / f"{family}--law--500--b100--s0.json").read_text())
    for name in ("whole", "killed")
  )
  for key in ("before", "after", "parameters"):
    assert killed[key] == whole[key]
  spent = [[(e["phase"], e["tokens"], e["flops"]) for e in r["ledger"]] for r in (whole, killed)]
  assert spent[0] == spent[1]


def test_the_data_are_bit_equal(folder):
  def digests(data):
    return {
      path.relative_to(data): hashlib.sha256(path.read_bytes()).hexdigest()
      for path in sorted(data.rglob("*"))
      if path.is_file()
      and "ledger" not in path.parts
      and "/." not in str(path.relative_to(data.parent))
    }

  whole, killed = (digests(folder / name / "data") for name in ("whole", "killed"))
  assert len(whole) > 20
  assert killed == whole


def test_it_went_on_from_where_it_was(folder):
  said = (folder / "killed.txt").read_text()
  for line in (
    *("pretrain dense.*: .* its own checkpoint of step 3", "pretrain mixture.*: .* step [36]"),
    *("pretrain projected.*: .* step 6", "specialize dense.*: .* step 6"),
    *("specialize mixture.*: .* step [46]", "specialize projected.*: .* step [34]"),
    "specialize projected.*: .* step 8",
  ):
    assert re.search(line, said), line
  assert said.count("starting from scratch") == 3


def test_a_finished_run_does_nothing_but_say_so(folder):
  def stamps():
    return {
      path: path.stat().st_mtime_ns
      for path in (folder / "whole").rglob("*")
      if "report" not in path.relative_to(folder).parts
    }

  before = stamps()
  said = run(folder, "whole", ())
  assert "steps at most" not in said
  (seconds,) = re.findall(r"all is done in .* \((\d+) s\)", said)
  assert int(seconds) < 10
  assert stamps() == before


def test_a_domain_that_cannot_be_read_stops_no_other(tmp_path):
  corpus, workdir, config = (tmp_path / name for name in ("corpus", "study", "two.py"))
  tiny_study.write_corpus(corpus)
  config.write_text(
    "import tiny_study\n"
    "def get_config(corpus):\n"
    "  config = tiny_study.get_config(corpus)\n"
    "  gone = dict(train=(f'{corpus}/gone.jsonl',), validation=(), test=())\n"
    "  config.data.domains = dict(gone=gone, law=config.data.domains.law.to_dict())\n"
    "  return config\n"
  )
  arguments = [f"--config={config}:{corpus}", f"--workdir={workdir}", "--only=dense"]
  sentence = "gone.jsonl' matches no file"
  with pytest.raises(UserError, match=sentence) as raised:
    main.main(["run", *arguments])
  failed = "2 of 5 jobs failed, first specialize/dense--gone--500--b100--s0: "
  assert str(raised.value).startswith(failed)
  results = [path.stem for path in (workdir / "results").iterdir()]
  assert results == ["dense--law--500--b100--s0"]
  with pytest.raises(UserError, match=sentence):
    main.main(["prepare", *arguments])
