"""What a person can get wrong: one sentence, exit status 2, and nothing is lost that was made."""

import errno
import gzip
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

import tiny_study
from specialization import artifact, main, metrics

QUICKSTART = str(tiny_study.ROOT / "configs" / "quickstart.py")


@pytest.fixture
def refused(console):
  """Returns a function from a command line to the sentence that refuses it."""

  def run(*arguments):
    status, line = console(*arguments)
    assert status == 2, line
    assert line.startswith("error: ")
    assert line[-1] in ".?"
    return line

  return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder with a corpus, and a study of which generic data and one method are finished."""
  folder = tmp_path_factory.mktemp("bad")
  tiny_study.write_corpus(folder / "corpus")
  arguments = tiny_study.arguments("pretrain", folder / "corpus", folder / "study")
  main.main([*arguments, "--only=dense"])
  return folder


def contents(folder):
  return {
    path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.fixture
def study(made, tmp_path):
  """A copy of it; returns verb, overrides -> command line, and looks afterwards what is left."""
  workdir = tmp_path / "study"
  shutil.copytree(made / "study", workdir)
  before = contents(workdir)

  def arguments(verb, **overrides):
    return tiny_study.arguments(verb, made / "corpus", workdir, **overrides)

  yield SimpleNamespace(arguments=arguments, workdir=workdir, made=made)
  after = contents(workdir)
  assert before.items() <= after.items(), "something that was made is lost or changed"
  for path in workdir.glob("data/**/*"):
    hidden = any(part.startswith(".") for part in path.relative_to(workdir).parts)
    assert not hidden, f"{path} was left behind"


FIELDS = {
  "--config.sede=1": "config has no field 'sede': did you mean 'seed'?",
  "--config.pretrain.horizn.steps=1": "config.pretrain has no field 'horizn': did you mean",
  "--config.sizes.slm.d_modle=1": "sizes.slm has no field 'd_modle': did you mean 'd_model'?",
  "--config.methods.desne.clusters=1": "methods has no field 'desne': did you mean 'dense'?",
  "--config.methods.dense.pretrain.horizon.step=1": "pretrain.horizon has no field 'step': did",
  "--config.methods.projected.options.rnk=1": "has no field 'rnk': did you mean 'rank'?",
  "--config.seed.first=1": "config.seed is a value and has no field 'first'.",
  "--config.pretrain=1": "is not a dict",
  "--config.seed=many": "--config.seed=many: invalid literal for int()",
  "--config.seed=1.5": "--config.seed=1.5: invalid literal for int()",
  "--config.pretrain.optimizer.learning_rate=fast": "could not convert string to float: 'fast'",
  "--config.metrics.tensorboard=perhaps": "'perhaps'",
  "--config.clusters.levels=(2,2.5)": "config.clusters.levels=2.5 must be of type int.",
  "--config.data.generic.train=3": "config.data.generic.train=3 must be of type str.",
  "--config.seed": "Missing value for flag --config.seed",
  "--wrokdir=x": "Unknown command line flag 'wrokdir'",
  "--only=slm*": "--only='slm*' matches no cell, such as 'dense--law--500--b100--s0'.",
  "--config.pretrain.horizon.tokens=5": "exactly one positive number of steps, tokens,",
  "--config.pretrain.horizon.steps=0": "this one has none",
  "--config.methods.dense.family=dens": "family='dens' is unknown: did you mean 'dense'?",
  "--config.methods.dense.size=llm": "is not one of the config's sizes (slm).",
  "--config.methods.projected.clusters=3": "is not a level of the cluster tree",
  "--config.pretrain.checkpoint_every=0": "checkpoint_every=0 must be at least 1.",
  "--config.specialize.domain_tokens=()": "needs at least one number of tokens, each above 0",
  "--config.specialize.domain_tokens=(0,500)": "domain_tokens=(0, 500) needs at least one number",
  "--config.mesh.model=3": "data=-1, fsdp=1, model=3) does not divide the 8 devices",
  "--config.mesh.model=8": "does not divide over mesh.model=8",
  "--config.compute.microbatches=3": "microbatches=3 must divide the 1 groups (of",
  "--config.tokenizer.vocab_size=301": "was made with tokenizer.vocab_size=300, but this run",
}


@pytest.mark.parametrize("argument", FIELDS)
def test_a_wrong_field(refused, study, argument):
  assert FIELDS[argument] in refused(*study.arguments("prepare"), argument)


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["trian", "--workdir=x"], "'trian' is unknown: did you mean 'pretrain'?"),
    (["run", "pretrain", "--workdir=x"], "Only one verb at a time, not also pretrain"),
    (["run"], "Give a folder for everything that is made: --workdir=DIR."),
  ],
)
def test_a_wrong_verb(refused, arguments, sentence):
  assert sentence in refused(*arguments, f"--config={QUICKSTART}:smoke")


@pytest.mark.parametrize(
  ("spec", "sentence"),
  [
    (None, "Which config? Give one, for example --config=configs/quickstart.py."),
    ("configs/quikstart.py", "is unknown: did you mean 'configs/quickstart.py'?"),
    ("nowhere/quickstart.py", "is unknown: did you mean 'configs/quickstart.py'?"),
    ("", "choose one of configs/base.py"),
    ("SYNTAX", "gives no config (SyntaxError: "),
    ("NOTHING", "gives no config (KeyError: 'get_config')"),
    ("LIST", "must return a ConfigDict, not [1]."),
    ("LIST:smoke", "(TypeError: get_config() takes 0 positional arguments but 1 was given)"),
  ],
)
def test_a_wrong_config_file(refused, tmp_path, spec, sentence):
  (tmp_path / "SYNTAX").write_text("def get_config(:")
  (tmp_path / "NOTHING").write_text("")
  (tmp_path / "LIST").write_text("def get_config():\n  return [1]\n")
  spec = tmp_path / spec if spec and spec[0].isupper() else spec
  given = [] if spec is None else [f"--config={spec}"]
  assert sentence in refused("run", f"--workdir={tmp_path}", *given)


TEXT = json.dumps({"text": "The court heard the appeal of the judge. " * 20}).encode() + b"\n"
SOURCES = {
  "gone.jsonl": (None, "'{path}' matches no file"),
  "empty.jsonl": (b"", "domain 'law' has no text"),
  "blank.jsonl": (b'{"text": " "}\n', "domain 'law' has no text"),
  "cut.jsonl.gz": (gzip.compress(TEXT * 50)[:-20], "1 of 1 files are broken, the first at {path}"),
  "cut.jsonl.zst": (zstandard.compress(TEXT * 50)[:-20], "1 of 1 files are broken, the first at"),
  "latin.jsonl": (b'{"text": "\xe9"}\n', "1 of 1 records are bad, the first at {path}:1 (not UTF"),
  "latin.txt": (b"caf\xe9", "1 of 1 records are bad, the first at {path} (not UTF-8)"),
  "field.jsonl": (b'{"body": "x"}\n', "{path}:1 (no text in its field 'text')"),
  "half.jsonl": (TEXT + b'{"text": "x', "1 of 2 records are bad, the first at {path}:2 (not JSON)"),
  "no.parquet": (b"PAR1", "1 of 1 files are broken, the first at {path}"),
  "text.docx": (b"x", "'{path}' has no file of a known format"),
  "short.jsonl": (b'{"text": "law"}\n', "fewer than the 17 of one row: add text or lower"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_a_wrong_source(refused, study, tmp_path, name):
  content, sentence = SOURCES[name]
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  line = refused(*study.arguments("prepare", data__domains__law__train=path))
  assert sentence.format(path=path) in line
  assert "law" in line


def test_more_clusters_than_documents(refused, made, tmp_path):
  arguments = tiny_study.arguments(
    "prepare", made / "corpus", tmp_path / "new", clusters__levels="(2,100)"
  )
  assert "100" in refused(*arguments)
  assert artifact.exists(
    tmp_path / "new" / "data" / "tokenizer",
    artifact.made_from(made / "study" / "data" / "tokenizer"),
  )


def test_a_horizon_below_one_step_is_told_before_anything_is_read(refused, made, tmp_path):
  small = dict(pretrain__horizon__steps=0, pretrain__horizon__tokens=255)
  line = refused(*tiny_study.arguments("run", made / "corpus", tmp_path / "new", **small))
  assert "too small for one step of 256 tokens" in line
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  ("verb", "only", "sentence"),
  [
    ("specialize", "mixture", "mixture is not pretrained in "),
    (
      "evaluate",
      "dense",
      "dense--law--500--b100--s0 is not specialized yet: run `specialize` first.",
    ),
  ],
)
def test_a_phase_before_its_turn(refused, study, verb, only, sentence):
  assert sentence in refused(*study.arguments(verb), f"--only={only}")


@pytest.mark.parametrize(
  ("overrides", "sentence"),
  [
    ({"pretrain__optimizer__learning_rate": 1.0}, "learning_rate=0.002, but this run ("),
    ({"pretrain__horizon__steps": 9}, "horizon.steps=8, but this run ("),
    ({"seed": 1}, "was made with seed=0, but this run ("),
  ],
)
def test_a_folder_of_another_config(refused, study, overrides, sentence):
  assert sentence in refused(*study.arguments("pretrain", **overrides), "--only=dense")


@pytest.mark.parametrize("field", ["init_state", "init_params"])
@pytest.mark.parametrize(
  ("where", "overrides", "sentence"),
  [
    ("nowhere", {}, "is not a folder of checkpoints"),
    ("corpus", {}, "has no complete checkpoint to begin from."),
    (
      "study/pretrain/dense--b100--s0/checkpoints",
      {"sizes__slm__d_mlp": 24},
      "is not one of this model",
    ),
  ],
)
def test_a_wrong_place_to_begin_from(refused, study, field, where, overrides, sentence):
  shutil.rmtree(study.workdir / "pretrain")  # to be made anew
  begin = {f"pretrain__{field}": study.made / where}
  try:
    assert sentence in refused(*study.arguments("pretrain", **begin, **overrides), "--only=dense")
  finally:
    shutil.rmtree(study.workdir / "pretrain", ignore_errors=True)
    shutil.copytree(study.made / "study" / "pretrain", study.workdir / "pretrain")


@pytest.mark.parametrize("field", ["init_state", "init_params"])
def test_parameters_that_know_another_tokenizer(refused, study, tmp_path, field):
  """One of the same size, in which two entries have changed places."""
  told = json.loads((study.made / "study/data/tokenizer/tokenizer.json").read_text())
  ids, (first, second) = told["model"]["vocab"], [*told["model"]["vocab"]][-2:]
  ids[first], ids[second] = ids[second], ids[first]
  (tmp_path / "tokenizer.json").write_text(json.dumps(told))
  fields = {
    "tokenizer__file": tmp_path / "tokenizer.json",
    f"pretrain__{field}": study.made / "study/pretrain/dense--b100--s0/checkpoints",
  }
  arguments = tiny_study.arguments("pretrain", study.made / "corpus", tmp_path / "new", **fields)
  assert "was trained with another tokenizer, to" in refused(*arguments, "--only=dense")


@pytest.fixture
def unfinished(made, tmp_path):
  """Command line of a pretraining that is yet to be done, and its folder."""
  shutil.copytree(made / "study" / "data", tmp_path / "study" / "data")
  arguments = tiny_study.arguments("pretrain", made / "corpus", tmp_path / "study")
  return [*arguments, "--only=dense"], tmp_path / "study" / "pretrain" / "dense--b100--s0"


def finish(console, arguments, folder, step):
  """Runs again and checks that it goes on from a checkpoint and ends."""
  assert {path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit()} == step
  assert console(*arguments)[0] == 0
  assert (folder / "result.json").exists()
  assert [line["step"] for line in metrics.read(folder)] == list(range(1, 9))


def test_a_full_disk_is_foreseen(refused, console, unfinished, monkeypatch):
  room = iter([1 << 40, 1 << 10])
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(room)))
    line = refused(*unfinished[0])
  assert "has 0 MB free, but the checkpoint of step 6 takes up to 0 MB" in line
  assert "it goes on from step 3." in line
  finish(console, *unfinished, step={"3"})


def test_a_full_disk_while_a_checkpoint_is_written(console, unfinished):
  """The limit on the size of a file stands for the disk; writing fails in the background."""
  run = subprocess.run(
    [sys.executable, "-m", "specialization", *unfinished[0]],
    env=tiny_study.environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    stderr=subprocess.PIPE,
    text=True,
  )
  assert run.returncode == 2
  assert re.fullmatch(
    "error: The disk of .* was full while a checkpoint was written .*\n", run.stderr
  )
  finish(console, *unfinished, step=set())


def test_a_full_disk_elsewhere(refused, console, unfinished, monkeypatch):
  def full(self, step, scalars):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, "write", full)
    line = refused(*unfinished[0])
  assert "metrics.jsonl cannot be used (No space left on device)" in line
  finish(console, *unfinished, step=set())


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_workdir_that_is_a_file(refused, made, tmp_path, inside):
  (tmp_path / "file").write_text("mine")
  line = refused(*tiny_study.arguments("run", made / "corpus", tmp_path / "file" / inside))
  assert f"{tmp_path}/file" in line
  assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_that_may_not_be_written(refused, made, tmp_path, monkeypatch):
  def deny(self, *_, **__):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

  monkeypatch.setattr(Path, "mkdir", deny)
  line = refused(*tiny_study.arguments("run", made / "corpus", tmp_path / "locked"))
  assert f"{tmp_path}/locked" in line
  assert "cannot be used (Permission denied)" in line


def test_a_bug_is_not_blamed_on_the_person(console, made, tmp_path, monkeypatch):
  def wrong(*_, **__):
    raise OSError(errno.EBADF, "a bug")

  monkeypatch.setattr(Path, "mkdir", wrong)
  with pytest.raises(OSError, match="a bug"):
    console(*tiny_study.arguments("run", made / "corpus", tmp_path / "new"))


def test_an_interrupt_says_how_to_go_on(console, study, monkeypatch):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(metrics, "Writer", interrupt)
  status, line = console(*study.arguments("pretrain"), "--only=projected")
  assert (status, line) == (130, "Stopped. Run the same command again to go on.")


def test_a_reader_that_has_seen_enough_is_no_error(study):
  command = [sys.executable, "-m", "specialization", *study.arguments("cells")]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    process.stdout.close()
    assert process.stderr.read() == b""
  assert process.returncode == 128 + signal.SIGPIPE
