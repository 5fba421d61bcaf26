"""Parameters that are taken as they are teach others, and are specialized."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import every_method
import other_tokenizers
import tiny_study
from specialization import main
from specialization.checkpoint import Checkpoints
from specialization.errors import UserError
from specialization.export import hf
from specialization.phases import generate


def arguments(verb, corpus, workdir, *flags):
  return [verb, f"--config={every_method.__file__}:{corpus}", f"--workdir={workdir}", *flags]


def test_an_imported_model_teaches(tmp_path):
  corpus = tmp_path / "corpus"
  tiny_study.write_corpus(corpus)
  main.main(arguments("pretrain", corpus, tmp_path / "first", "--only=large"))
  given = tmp_path / "first" / "pretrain" / "large--b100--s0" / "checkpoints"
  flags = ["--config.methods.large.strategy=imported", "--only=taught"]
  line = arguments("run", corpus, tmp_path / "second", *flags)
  with pytest.raises(UserError, match=r"strategy='imported' needs pretrain.init_params"):
    main.main(line)
  field = "--config.methods.large.pretrain.init_params"
  with pytest.raises(UserError, match="is not what `import` made, or another run"):
    main.main([*line, f"{field}={corpus / 'nothing'}"])
  main.main([*line, f"{field}={given}"])
  (found,) = (tmp_path / "second" / "results").glob("taught--*.json")
  record = json.loads(found.read_text())
  books = {entry["phase"]: entry["book"] for entry in record["ledger"]}
  assert "teacher: specialize large--law--500--b100--s0" in books
  assert not any("pretrain large" in phase for phase in books)  # It cost this study nothing.
  second = tmp_path / "second" / "pretrain" / "large--b100--s0"
  assert not (second / "checkpoints").exists()


def test_a_model_with_another_tokenizer_comes_and_goes(tmp_path, capsys):
  corpus, out = tmp_path / "corpus", tmp_path / "out"
  tiny_study.write_corpus(corpus)
  lines = (corpus / "generic-train.jsonl").read_text().splitlines()
  text = other_tokenizers.marked([json.loads(line)["text"] for line in lines], 300)

  def run(verb, study, file, *flags, **overrides):
    overrides["tokenizer__file"] = file
    line = tiny_study.arguments(verb, corpus, tmp_path / study, **overrides)
    main.main([*line, "--only=dense", *flags])
    return capsys.readouterr().out

  file = other_tokenizers.write(tmp_path, text)
  run("pretrain", "first", file)
  run("export", "first", file, "--expert=0", f"--to={out}")
  folder = out / "dense--b100--s0--0" / "hf-float32"
  file = folder / "tokenizer.json"
  said = run("import", "second", file, f"--model={folder}")
  place = re.match("import: (.*) has the parameters", said)[1]
  begun = {"strategy": "imported", "pretrain__init_params": place}
  begun = {f"methods__dense__{name}": value for name, value in begun.items()}
  run("run", "second", file, **begun)
  assert "held-out tokens" in run("export", "second", file, f"--to={out}", **begun)
  folder = out / "dense--law--500--b100--s0" / "hf-float32"
  about = json.loads((folder / "config.json").read_text())
  assert (about["bos_token_id"], about["eos_token_id"]) == (1, 2)
  read = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  assert read.encode("court").tokens == ["<s>", "\u2581", *"court"]
  asked = ("--prompt=court", "--tokens=8")
  goes_on = run("generate", "second", file, *asked, **begun)
  assert goes_on.startswith("court")
  model = generate.load(folder)
  ids = model.tokenizer.encode_batch(["judge"])[0].tolist()
  assert model.ends == (2,)
  assert model._encode(["judge"]) == [[1, *ids]]
  assert (model._text("", ids), model._text("court", ids)) == ("judge", " judge")
  main.main(["generate", f"--model={folder}", *asked])
  assert capsys.readouterr().out == goes_on


def test_embeddings_of_no_token_are_left_out(tmp_path, capsys):
  """As where a model's were made a round number; what is sharded over devices is cut alike."""
  corpus, out = tmp_path / "corpus", tmp_path / "out"
  tiny_study.write_corpus(corpus)

  def run(verb, *flags, **fields):
    line = tiny_study.arguments(verb, corpus, tmp_path / "study", **fields)
    main.main([*line, "--only=dense", *flags])
    return capsys.readouterr().out

  size = {"sizes__slm__tie_embeddings": False, "sizes__slm__rope_scaling": (8.0, 1.0, 4.0, 64.0)}
  run("pretrain", **size)
  run("export", "--expert=0", f"--to={out}", **size)
  (folder,) = out.glob("*/hf-float32")
  whole, file = generate.load(folder), folder / "model.safetensors"
  tensors = load_file(file)
  for name in ("model.embed_tokens.weight", "lm_head.weight"):
    tensors[name] = np.pad(tensors[name], ((0, 20), (0, 0)), constant_values=9.0)
  save_file(tensors, file)
  about = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(about | {"vocab_size": 320}))
  wanted = r"rope_scaling='\(8.0,1.0,4.0,64.0\)', or choose --only"
  with pytest.raises(UserError, match=f"tie_embeddings=False --config.sizes.slm.{wanted}"):
    run("import", f"--model={folder}")
  said = run("import", f"--model={folder}", "--mesh=fsdp", **size)
  assert (
    "but those of 20 tokens that its tokenizer lacks. Texts begin with <|endoftext|> and" in said
  )
  place = Path(re.match("import: (.*) has the parameters", said)[1])
  with contextlib.closing(Checkpoints(place, read_only=True)) as opened:
    np.testing.assert_array_equal(
      opened.leaf(0, ("embedding", "table")), whole.params["embedding"]["table"]
    )
    np.testing.assert_array_equal(
      opened.leaf(0, ("head", "kernel")), whole.params["head"]["kernel"]
    )
  (folder / "config.json").write_text(json.dumps(about | {"vocab_size": 340}))
  more = {n: np.pad(t, ((0, 20), (0, 0))) if t.shape[0] == 320 else t for n, t in tensors.items()}
  save_file(more, folder / "model.safetensors")
  with pytest.raises(
    UserError, match=r"has 340 tokens in config.json, but 300 in .*: take both from"
  ):
    run("import", f"--model={folder}", **size)
  (folder / "config.json").write_text(json.dumps(about | {"vocab_size": 299}))
  save_file(
    {n: t[:299] if t.shape[0] == 320 else t for n, t in tensors.items()},
    folder / "model.safetensors",
  )
  with pytest.raises(
    UserError, match=r"has 299 tokens in config.json, but 300 in tokenizer.json: take"
  ):
    run("import", f"--model={folder}", **size)


def test_a_folder_may_stop_at_several_tokens(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 4}))
  assert hf.ends(tmp_path) == (4,)
  (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 9]}))
  assert hf.ends(tmp_path) == (4, 9)
  (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
  assert hf.ends(tmp_path) == (4,)
  (tmp_path / "config.json").write_text("{}")
  assert hf.ends(tmp_path) == ()
