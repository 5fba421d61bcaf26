"""Cells, patterns that choose them, and results that know what they were made from."""

import dataclasses

import pytest

import tiny_study
from specialization import study
from specialization.config import Config, parse
from specialization.errors import UserError


@pytest.fixture(scope="module")
def config():
  tree = tiny_study.get_config("corpus").to_dict()
  tree["specialize"]["domain_tokens"] = (100, 200)
  return parse(Config, tree)


@pytest.mark.parametrize(
  ("only", "names", "methods"),
  [
    ("dense", ["dense--law--100", "dense--law--200"], ["dense"]),
    ("[dm]*--100", ["dense--law--100", "mixture--law--100"], ["dense", "mixture"]),
    ("mix*--200", ["mixture--law--200"], ["mixture"]),
  ],
)
def test_a_pattern_chooses_cells_and_their_methods(config, only, names, methods):
  assert [cell.name for cell in study.cells(config, only)] == names
  assert study.methods(config, only) == methods


def test_all_cells_are_there_once(config):
  cells = study.cells(config)
  assert len(set(cells)) == len(cells) == 3 * 2
  assert study.methods(config) == ["dense", "mixture", "projected"]


@pytest.mark.parametrize("domains", [True, False])
def test_a_pattern_that_chooses_nothing_is_refused(config, domains):
  if not domains:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, domains={}))
    assert study.methods(config, "d*") == ["dense"]
  with pytest.raises(UserError, match="--only='llm' matches no"):
    study.methods(config, "llm")


def test_a_result_of_another_config_is_refused(tmp_path):
  path = tmp_path / "new" / "result.json"
  assert study.read_result(path, {"seed": 1}) is None
  written = study.write_result(path, {"seed": 1}, {"curve": [[1, 0.5]]})
  assert study.read_result(path, {"seed": 1}) == written
  assert written["curve"] == [[1, 0.5]]
  with pytest.raises(UserError, match="was made by another configuration"):
    study.read_result(path, {"seed": 2})
