"""Cells, patterns that choose them, and results that know what they were made from."""

import dataclasses

import pytest

import tiny_study
from specialization import budgets, study
from specialization.config import Config
from specialization.errors import UserError
from specialization.strict import parse, to_dict


@pytest.fixture(scope="module")
def config():
  tree = tiny_study.get_config("corpus").to_dict()
  tree["specialize"]["domain_tokens"] = (100, 200)
  return parse(Config, tree)


@pytest.mark.parametrize(
  ("only", "names", "methods"),
  [
    ("dense", ["dense--law--100--b100--s0", "dense--law--200--b100--s0"], ["dense"]),
    (
      "[dm]*--100--*",
      ["dense--law--100--b100--s0", "mixture--law--100--b100--s0"],
      ["dense", "mixture"],
    ),
    ("mix*--200--*", ["mixture--law--200--b100--s0"], ["mixture"]),
  ],
)
def test_a_pattern_chooses_cells_and_their_methods(config, only, names, methods):
  assert [cell.name for cell in study.cells(config, only)] == names
  assert study.methods(config, only) == methods


def test_all_cells_are_there_once(config):
  cells = study.cells(config)
  assert len(set(cells)) == len(cells) == 3 * 2
  assert study.methods(config) == ["dense", "mixture", "projected"]


def changed(config, **fields):
  """Returns the config with `group__field` set."""
  tree = to_dict(config)
  for name, value in fields.items():
    *groups, field = name.split("__")
    node = tree
    for group in groups:
      node = node[group]
    node[field] = value
  return parse(Config, tree)


@pytest.fixture(scope="module")
def every(config):
  """A study with each kind of method, two shares and two seeds."""
  tree = to_dict(config)
  rows = tree["methods"]
  rows["is"] = rows["dense"] | {"strategy": "importance", "clusters": 2}
  rows["none"] = rows["dense"] | {"strategy": "none"}
  rows["taught"] = rows["dense"] | {"objective": "distillation", "teacher": "mixture"}
  rows["projected_all"] = rows["projected"] | {"choose": "all"}
  tree["methods"] = dict(sorted(rows.items()))
  tree["study"] |= {"shares": (0.25, 1.0), "seeds": (0, 3)}
  return parse(Config, tree)


def test_cells_of_all_shares_and_seeds(every):
  cells = study.cells(every)
  assert len(set(cells)) == len(cells) == 2 * 2 * (2 * 6 + 1)
  assert {c.share for c in cells if c.method == "none"} == {1.0}
  assert {c.name for c in cells if c.method == "is" and c.domain_tokens == 100} == {
    f"is--law--100--b{percent}--s{seed}" for percent in (25, 100) for seed in (0, 3)
  }


def test_cells_can_be_limited_to_patterns(every):
  some = changed(every, study__cells=("*--b100--s0", "dense--*--200--b25--*"))
  names = [cell.name for cell in study.cells(some)]
  assert len(names) == 7 * 2 + 2
  assert study.cells(some, "dense--*--b25--s3")[0].name == "dense--law--200--b25--s3"
  with pytest.raises(UserError, match=r"study.cells=.* matches no cell, such as"):
    study.cells(changed(every, study__cells=("llm--*",)))


def test_runs_are_shared_and_the_longest_come_first(every):
  runs = study.runs(every, study.cells(every, "*--s3"), "*")
  assert [run.name for run in runs] == [
    *("dense--b100--s3", "dense--b25--s3"),  # of `taught` too
    *(f"is--law--{n}--b{b}--s3" for b in (100, 25) for n in (100, 200)),
    *("mixture--b100--s3", "mixture--b25--s3"),
    "none--b100--s3",
    *("projected--b100--s3", "projected--b25--s3"),  # of `projected_all` too
  ]


def test_one_resample_serves_all_domain_sizes_if_it_counts_as_few_tokens(every):
  fewer = changed(every, importance__tokens=150)
  names = {study.run_of(fewer, cell).name for cell in study.cells(fewer, "is--*--b100--s0")}
  assert names == {"is--law--100--b100--s0", "is--law--150--b100--s0"}


def test_a_student_comes_with_its_teacher(every):
  (cell,) = study.cells(every, "taught--law--200--b25--s3")
  found = study.with_teachers(every, [cell])
  assert [c.name for c in found] == ["mixture--law--200--b25--s3", cell.name]
  assert [r.method for r in study.runs(every, [cell], "*")] == ["dense", "mixture"]


def test_budgets_of_inference_and_data_are_kept(every):
  size = budgets.parameters(every.sizes["slm"], every.tokenizer.vocab_size)
  study.cells(changed(every, budgets__inference_parameters=size))
  with pytest.raises(UserError, match=f"dense deploys a model of {size:,} parameters, more than"):
    study.cells(changed(every, budgets__inference_parameters=size - 1))
  study.cells(changed(every, budgets__domain_tokens=150), "*--100--*")
  with pytest.raises(UserError, match=r"200--b100--s0 uses more than budgets.domain_tokens=150"):
    study.cells(changed(every, budgets__domain_tokens=150))


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
