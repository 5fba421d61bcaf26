"""From a trained study to files that others read, and back."""

import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path

import jax
import jax.flatten_util
import numpy as np
import pytest

import several
import tiny_study
from specialization import export, main, metrics
from specialization.checkpoint import Checkpoints
from specialization.errors import UserError
from specialization.export import hf
from specialization.phases import generate

CELL = "{}--law--500--b100--s0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder with a corpus and a study of which all cells are done."""
  folder = tmp_path_factory.mktemp("export")
  tiny_study.write_corpus(folder / "corpus")
  main.main(tiny_study.arguments("run", folder / "corpus", folder / "study"))
  return folder


@pytest.fixture
def command(made, capsys):
  """Returns a function from a verb and flags to what was printed."""

  def run(verb, *flags, **overrides):
    capsys.readouterr()
    main.main([*tiny_study.arguments(verb, made / "corpus", made / "study", **overrides), *flags])
    return capsys.readouterr().out

  return run


def results(made, name):
  return json.loads((made / "study" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("kind", ["hf", "gguf", "stablehlo"])
def test_every_family_leaves_in_every_format(made, command, tmp_path, kind):
  said = command("export", f"--format={kind}", f"--to={tmp_path}")
  for family in tiny_study.FAMILIES:
    name = CELL.format(family)
    (line,) = [line for line in said.splitlines() if line.startswith(f"export {name}: ")]
    theirs, ours = re.search(r"held-out tokens ([\d.]+), ours ([\d.]+)\.$", line).groups()
    assert float(theirs) == pytest.approx(float(ours), rel=1e-3)
    # The test set is small enough to be looked at as a whole.
    after = results(made, name)["after"]["domain"]
    assert np.log(float(ours)) == pytest.approx(after["nats"] / after["tokens"], rel=1e-4)
    most = export.FORMATS[kind].slack or 1e-4
    assert float(re.search(r"differ by (\S+) at most", line)[1]) <= most
    (folder,) = (tmp_path / name).iterdir()
    assert folder.name.startswith(f"{kind}-")
    card = (folder / "README.md").read_text()
    assert f"| law, after fine-tuning | {float(ours):.2f} |" in card
    rolling = results(made, name)["after"]["rolling"]
    perplexity = np.exp(rolling["nats"] / rolling["tokens"])
    assert f"| law, after fine-tuning, in lm-eval's windows | {perplexity:.2f} |" in card
    assert f"perplexity of {after['tokens']:,} held-out tokens {theirs}, ours {ours}." in card
    assert f"| method | {family} |" in card
    assert f"| files | {folder.name.replace('-', ', ')} |" in card
    assert "| generic | 2,048 |" in card


def test_an_expert_leaves_as_it_was_pretrained(made, command, tmp_path):
  experts = {}
  for which in ("0", "1", "law"):
    said = command("export", "--only=mixture", f"--expert={which}", f"--to={tmp_path}")
    assert f"export mixture--b100--s0--{which}: " in said
    folder = tmp_path / f"mixture--b100--s0--{which}" / "hf-float32"
    card = (folder / "README.md").read_text()
    experts[which] = jax.flatten_util.ravel_pytree(generate.load(folder).params)[0]
  scores = re.findall(r"^\| law(?:, in lm-eval's windows)? \| ([\d.]+) \|", card, re.MULTILINE)
  assert len(scores) == len(set(scores)) == 2
  assert np.abs(experts["0"] - experts["1"]).max() > 0.01
  expert = results(made, CELL.format("mixture"))["expert"]

  assert expert["share"] == 1.0  # so that the mixture by the histogram is that expert
  np.testing.assert_array_equal(experts["law"], experts[str(expert["cluster"])])
  for flag, sentence in (
    ("9", "has experts 0 to 1, not --expert=9"),
    ("lwa", "did you mean 'law'"),
  ):
    with pytest.raises(UserError, match=sentence):
      command("export", "--only=mixture", f"--expert={flag}", f"--to={tmp_path}")


def test_what_is_there_is_neither_made_again_nor_replaced(command, tmp_path):
  flags = ("--only=dense", f"--to={tmp_path}")
  command("export", *flags)
  assert "is there already." in command("export", *flags)
  folder = tmp_path / CELL.format("dense") / "hf-float32"
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  record = folder / "made_from.json"
  whole = record.read_text()
  record.write_text(whole.replace('"model": "', '"model": "0'))
  with pytest.raises(UserError, match=r"was made with model='0.* or delete that folder"):
    command("export", *flags)
  record.write_text(whole)
  assert set(folder.iterdir()) == set(before)
  record.unlink()
  with pytest.raises(UserError, match="is in the way of the export: move it away, or choose --to"):
    command("export", *flags)


def perturbing(package, folder, dtype):
  leaf = lambda path: package.leaf(path) * 1.01  # noqa: E731
  hf.write(dataclasses.replace(package, leaf=leaf), folder, dtype)


def swapped(package, folder, dtype):
  """Up and gate are of one shape; what has q8_0 in its name may lose a part of each number."""

  def leaf(path):
    return package.leaf(tuple({"up": "gate", "gate": "up"}.get(key, key) for key in path))

  hf.write(dataclasses.replace(package, leaf=leaf), folder, "float32")


def interrupted(package, folder, dtype):
  hf.write(package, folder, dtype)
  raise KeyboardInterrupt


@pytest.mark.parametrize(
  ("write", "error", "sentence"),
  [
    (perturbing, UserError, r"as float32 is not dense--law.*removed \(parameters differ by 1.0%"),
    (swapped, UserError, r"was removed \(parameters differ by"),
    (interrupted, KeyboardInterrupt, None),
  ],
)
def test_nothing_is_left_of_what_is_not_right(
  command, tmp_path, monkeypatch, write, error, sentence
):
  broken = dataclasses.replace(hf.FORMAT, write=write)
  monkeypatch.setitem(export.FORMATS, "hf", broken)
  with pytest.raises(error, match=sentence):
    command("export", "--only=dense", f"--to={tmp_path}")
  assert list((tmp_path / CELL.format("dense")).iterdir()) == []


def test_what_is_not_checked_says_so(command, tmp_path):
  said = command("export", "--only=dense", f"--to={tmp_path}", "--nocheck")
  sentence = "It was not compared with what it was made from."
  assert sentence in said
  folder = tmp_path / CELL.format("dense") / "hf-float32"
  assert sentence in (folder / "README.md").read_text()


def test_without_the_packages_of_others(command, tmp_path, monkeypatch):
  for name in ("torch", "mlx"):
    monkeypatch.setitem(sys.modules, name, None)
  flags = ("--only=dense", f"--to={tmp_path}")
  assert "; read back by this project alone, without torch and transformers: logits" in command(
    "export", *flags
  )
  with pytest.raises(UserError, match=r"takes mlx, which is not installed: pip install -e \.\[mlx"):
    command("export", *flags, "--format=mlx")
  assert not (tmp_path / CELL.format("dense") / "mlx-float32").exists()


@pytest.mark.parametrize(
  "fields",
  [
    {"sizes__slm__d_mlp": 24},
    {"methods__dense__family": "mixture"},
    {"specialize__replay": 0.5},
  ],
  ids=str,
)
def test_what_another_configuration_made(command, tmp_path, fields):
  with pytest.raises(UserError, match=r"was made (with|by) .*: choose another --workdir, restore"):
    command("export", "--only=dense", f"--to={tmp_path}", **fields)
  assert not (tmp_path / CELL.format("dense")).exists()


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--format=hff"], "--format='hff' is unknown: did you mean 'hf'"),
    (["--format=gguf", "--dtype=q8"], "--dtype of --format=gguf='q8' is unknown: did you mean"),
    (["--format=gguf", "--dtype=q8_0"], "d_model=16, and q8_0 takes numbers in blocks of 32"),
    (["--to={file}"], "{file}.* cannot be used"),
    (["--only=dnese"], "--only='dnese' matches no cell"),
  ],
)
def test_what_is_refused(command, tmp_path, flags, sentence):
  file = tmp_path / "file"
  file.write_text("")
  # Of a flag that is given twice the last one counts.
  flags = ["--only=dense", *(flag.format(file=file) for flag in flags)]
  with pytest.raises(UserError, match=sentence.format(file=file)):
    command("export", *flags)


def test_a_cell_that_is_not_specialized(made, tmp_path):
  for verb, flags, missing in (
    ("export", [], "specialize/dense--law"),
    ("export", ["--expert=0"], "pretrain/dense--b100"),
    ("generate", ["--prompt=a"], "specialize/dense--law"),
    ("evaluate", ["--inference"], "specialize/dense--law"),
  ):
    arguments = tiny_study.arguments(verb, made / "corpus", tmp_path / "new")
    with pytest.raises(UserError, match=f"has no {missing}.*: run `.*` there first"):
      main.main([*arguments, "--only=dense", *flags])
  assert not (tmp_path / "new" / "data").exists()  # nothing is prepared for it


def losses(folder):
  return [line["loss"] for line in metrics.read(folder / "pretrain" / "dense--b100--s0")]


def test_a_model_that_left_and_came_back_trains_as_if_it_had_stayed(made, command, tmp_path):
  command("export", "--only=dense", "--expert=0", f"--to={tmp_path}")
  folder = tmp_path / "dense--b100--s0--0" / "hf-float32"
  tokenizer = {"tokenizer__file": folder / "tokenizer.json"}
  arguments = tiny_study.arguments("import", made / "corpus", tmp_path / "in", **tokenizer)
  main.main([*arguments, "--only=dense", f"--model={folder}"])
  stayed = made / "study" / "pretrain" / "dense--b100--s0" / "checkpoints"
  came = tmp_path / "in" / "imported" / "dense--b100--s0--0--hf-float32" / "checkpoints"
  for name, where in (("stayed", stayed), ("came", came)):
    fields = tokenizer | {"methods__dense__pretrain__init_params": where}
    arguments = tiny_study.arguments("pretrain", made / "corpus", tmp_path / name, **fields)
    main.main([*arguments, "--only=dense"])
  assert len(losses(tmp_path / "came")) == 8
  assert losses(tmp_path / "came") == losses(tmp_path / "stayed")
  # It has learned, so that another beginning would be seen.
  assert losses(tmp_path / "came")[0] < losses(made / "study")[0] - 0.1

  # And as it is, without pretraining: what the study made of it before.
  fields = tokenizer | {
    "methods__dense__pretrain__init_params": came,
    "methods__dense__strategy": "imported",
  }
  arguments = tiny_study.arguments("run", made / "corpus", tmp_path / "as_it_is", **fields)
  main.main([*arguments, "--only=dense"])
  before, after = (
    json.loads((where / "results" / f"{CELL.format('dense')}.json").read_text())
    for where in (made / "study", tmp_path / "as_it_is")
  )
  assert after["before"] == before["before"]
  assert after["after"]["domain"]["nats"] == pytest.approx(
    before["after"]["domain"]["nats"], rel=1e-5
  )


def test_several_processes_bring_it_together(command, made, tmp_path):
  command("export", "--only=dense", "--expert=0", f"--to={tmp_path}")
  folder = tmp_path / "dense--b100--s0--0" / "hf-float32"
  arguments = [f"--model={folder}", "--only=dense", "--mesh=fsdp"]
  found = []
  for count, devices in ((1, 4), (2, 2)):
    where = tmp_path / f"of-{count}"
    line = tiny_study.arguments("import", made / "corpus", where)
    assert "has the parameters of" in several.run(count, devices, [*line, *arguments], where)
    (checkpoints,) = where.glob("imported/*/checkpoints")
    with contextlib.closing(Checkpoints(checkpoints, read_only=True)) as opened:
      found.append(opened.leaf(0, ("layers", "mlp", "up", "kernel")))
  wanted = generate.load(folder).params["layers"]["mlp"]["up"]["kernel"]
  np.testing.assert_array_equal(found[0], wanted)
  np.testing.assert_array_equal(found[1], wanted)


def test_what_cannot_come_back(made, command, tmp_path):
  command("export", "--only=dense", f"--to={tmp_path}")
  folder = tmp_path / CELL.format("dense") / "hf-float32"

  def bring(sentence, *flags, model=folder, **overrides):
    arguments = tiny_study.arguments("import", made / "corpus", tmp_path / "in", **overrides)
    with pytest.raises(UserError, match=sentence):
      main.main([*arguments, "--only=dense", f"--model={model}", *flags])

  bring("has no config.json: name a folder that", model=tmp_path)
  bring("Which model", model="")
  bring(r"was trained on 16 positions: set --config.sequence_length=16", sequence_length=32)
  bring(r"not of dense's size: set --config.sizes.slm.d_mlp=16", sizes__slm__d_mlp=24)
  bring(r"set --config.tokenizer.vocab_size=300", tokenizer__vocab_size=400)
  tokenizer = json.loads((folder / "tokenizer.json").read_text())
  ids, (first, second) = tokenizer["model"]["vocab"], [*tokenizer["model"]["vocab"]][-2:]
  ids[first], ids[second] = ids[second], ids[first]
  (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
  arguments = tiny_study.arguments("import", made / "corpus", tmp_path / "in")
  main.main([*arguments, "--only=dense", f"--model={folder}"])
  came = tmp_path / "in" / "imported" / f"{CELL.format('dense')}--hf-float32" / "checkpoints"
  begin = {"methods__dense__pretrain__init_params": came}
  arguments = tiny_study.arguments("pretrain", made / "corpus", tmp_path / "new", **begin)
  with pytest.raises(UserError, match="was trained with another tokenizer"):
    main.main([*arguments, "--only=dense"])


def test_text_by_a_cell_is_text_by_what_left_of_it(made, command, tmp_path, capsys):
  command("export", "--only=dense", f"--to={tmp_path}")
  folder = tmp_path / CELL.format("dense") / "hf-float32"
  one = command("generate", "--only=dense", "--prompt=court", "--tokens=5")
  assert one.startswith("court")
  assert len(one) > len("court") + 5
  main.main(["generate", f"--model={folder}", "--prompt=court", "--tokens=5"])
  assert capsys.readouterr().out == one
  text = one.removeprefix("court").removesuffix("\n")
  assert generate.load(folder).generate(["court"], 5) == [text]
  prompts = tmp_path / "prompts.txt"
  prompts.write_text("court\njudge appeal\ncourt\n")
  main.main(["generate", f"--model={folder}", f"--prompts={prompts}", "--tokens=5", "--batch=2"])
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [line["prompt"] for line in lines] == ["court", "judge appeal", "court"]
  assert lines[0]["text"] == lines[2]["text"] == text
  stop = text[3:5]
  cut = generate.load(folder).generate(["court"], 5, stop=[stop])[0]
  assert cut == text[: text.index(stop)]


def test_exports_are_measured_by_their_readers(made, command, tmp_path):
  flags = ("--only=dense", f"--to={tmp_path}")
  with pytest.raises(UserError, match=f"{tmp_path} has nothing of dense.*: run `export` first"):
    command("evaluate", "--inference", *flags)
  for way in ("hf", "gguf", "stablehlo"):
    command("export", *flags, f"--format={way}")
  said = command("evaluate", "--inference", *flags)
  assert len([line for line in said.splitlines() if line.startswith("inference dense")]) == 4
  folder = made / "study" / "inference"
  found = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
  assert {name.removeprefix(CELL.format("dense")) for name in found} == {
    *("--hf-float32.json", "--specialization-float32.json"),
    *("--gguf-f32.json", "--stablehlo-float32.json"),
  }
  after = results(made, CELL.format("dense"))["after"]["domain"]
  for record in found.values():
    assert np.log(record["perplexity"]) == pytest.approx(after["nats"] / after["tokens"], rel=1e-3)
    assert record["tokens"] == after["tokens"]
    assert record["parameters"] == 300 * 16 + 2 * (7 * 16 * 16 + 2 * 16) + 16
    assert 4 * record["parameters"] < record["bytes"] < 100_000
  ours = found[f"{CELL.format('dense')}--specialization-float32.json"]
  assert min(ours[key] for key in ("prefill", "decode_1", "decode_16")) > 1
  page = command("report")
  assert "report: " in page
  text = (made / "study" / "report" / "table.md").read_text()
  assert "## Inference, measured" in text
  assert text.count("| dense | law | hf | float32 |") == 2
  assert command("evaluate", "--inference", *flags).count("inference dense") == 0  # It is known.
  name = f"{CELL.format('dense')}--gguf-f32.json"
  (folder / name).write_text(json.dumps(found[name] | {"export": "another"}))
  assert command("evaluate", "--inference", *flags).count("inference dense") == 1


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    ([], "What to go on from"),
    (["--prompt=a", "--prompts=b"], "What to go on from"),
    (["--prompt=a", "--tokens=0"], "What to go on from"),
    (["--prompt=a", "--tokens=16"], r"2 tokens and 16 more are beyond the 16 positions"),
    (["--prompts=/nowhere"], "--prompts=/nowhere cannot be read"),
    (["--prompt=a", "--stop="], "a --stop is no empty text"),
    (["--prompt=a", "--top_p=2"], "top_p=2 must be"),
    (["--prompt=a", "--temperature=nan"], "temperature=nan, .* must be"),
    (["--prompt=a", "--seed=-1"], "--seed=-1 must be at least 0 and below 4294967296"),
    (["--prompt=a", f"--seed={1 << 32}"], "--seed=4294967296 must be"),
    (["--prompt=\udcff"], "--prompt and --stop are no UTF-8"),
  ],
)
def test_what_is_no_question(command, flags, sentence):
  with pytest.raises(UserError, match=sentence):
    command("generate", "--only=dense", *flags)


def test_text_by_several_cells(command):
  with pytest.raises(UserError, match=r"3 cells are chosen, the first two dense--.* with --only"):
    command("generate", "--prompt=a")


def test_text_by_no_model():
  with pytest.raises(UserError, match=r"/nowhere has no config.json: name a folder that `export`"):
    main.main(["generate", f"--model={Path('/nowhere')}", "--prompt=a"])
