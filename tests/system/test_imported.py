"""Parameters that are taken as they are teach others."""

import json

import pytest

import every_method
import tiny_study
from specialization import main
from specialization.errors import UserError


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
