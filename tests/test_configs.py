"""The files in configs/: they parse, say what they cost, and train."""

import ast
import gzip
import inspect
import itertools
import json
import re
import runpy

import jax
import numpy as np
import pytest
import zstandard

import tiny_study
from specialization import budgets, main, metrics, phases, study
from specialization.config import Config
from specialization.phases.build import make_method
from specialization.strict import parse

FOLDER = tiny_study.ROOT / "configs"
MAKERS = {
  path.relative_to(FOLDER).with_suffix("").as_posix(): make
  for path in sorted(FOLDER.rglob("*.py"))
  if (make := runpy.run_path(str(path)).get("get_config")) and path.stem != "base"
}
VARIANTS = [
  (name, variant)
  for name, make in MAKERS.items()
  for variant in ("", *(["smoke"] if "variant" in inspect.signature(make).parameters else []))
]
RUNNABLE = [name for name, make in MAKERS.items() if "hub:" not in str(make())]


def described(capsys, *arguments):
  """Returns the config and the lines of the budget block that --print_config prints."""
  main.main(["run", *map(str, arguments), "--print_config"])
  config, _, block = capsys.readouterr().out.partition("\n\n")
  return json.loads(config), block.splitlines()


def test_the_configs_that_are_promised_are_there():
  assert {"quickstart", "slm", "slm_mix", "slm_pn", "documentation", "paper"} <= MAKERS.keys()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_it_parses_and_says_what_it_costs(capsys, name, variant):
  spec = f"{FOLDER / name}.py" + f":{variant}" * bool(variant)
  config = main.load_config(spec)
  _, block = described(capsys, f"--config={spec}")
  assert len(block) == 3 * len(config.methods)
  if config.data.domains:
    assert study.cells(config)
  for (method, row), line in zip(config.methods.items(), block[::3], strict=True):
    family = make_method(config, row)
    counts = (
      sum(leaf.size for leaf in jax.tree.leaves(shapes))
      for shapes in (family.shapes(), family.transformer.abstract()[0])
    )
    large, small = (budgets.readable(count) for count in counts)
    large = "0" if row.strategy == "none" else large
    assert line == f"{method}: {large} parameters at pretraining, {small} at inference"


def test_the_budget_block_by_hand(capsys):
  """8 steps of 2 rows of 16 tokens; 2 layers of width 16, MLP 16; vocabulary 300."""
  arguments = tiny_study.arguments("", "corpus", "none", pretrain__batch_rows=2)
  _, block = described(capsys, *arguments[1:])
  kernels = 2 * (4 * 16 * 16 + 3 * 16 * 16)
  small = kernels + 2 * 2 * 16 + 16 + 300 * 16
  forward = 2 * (kernels + 300 * 16) + 2 * 4 * 16 * 16
  tokens, bases = 8 * 2 * 16, 2 * 2 * 3 * 16 * 16
  mixing = 3 * 8 * 2 * (2 * bases + 2 * 2 * 2 * 3 * 2 + 2 * 2 * 2)  # 2 groups, rank 2, code 2
  large = {"dense": small, "mixture": 2 * small}
  large["projected"] = small + bases // 2 + 2 * 3 * 2 * 2 + 2 * 2
  expected = []
  for method, parameters in large.items():
    flops = tokens * 3 * forward + (mixing if method == "projected" else 0)
    r = budgets.readable
    expected += [
      f"{method}: {r(parameters)} parameters at pretraining, {r(small)} at inference",
      f"  pretraining: 8 steps, {r(tokens)} tokens, {r(flops)} FLOPs,"
      f" {tokens / small:.1f} tokens per inference parameter",
      f"  inference: {r(forward)} FLOPs per token",
    ]
  assert block == expected


@pytest.mark.parametrize("turned", [False, True])
def test_linked_fields(capsys, turned):
  """An override reaches all methods, except one that has its own, in any order."""
  overrides = [
    "--config.pretrain.optimizer.learning_rate=0.5",
    "--config.methods.mixture.pretrain.optimizer.learning_rate=0.25",
    "--config.pretrain.horizon.steps=5",
    "--config.methods.dense.pretrain.horizon.steps=7",
  ]
  arguments = tiny_study.arguments("", "corpus", "none")[1:]
  config, block = described(capsys, *arguments, *(overrides[::-1] if turned else overrides))
  trains = {name: row["pretrain"] for name, row in config["methods"].items()}
  rates = {name: train["optimizer"]["learning_rate"] for name, train in trains.items()}
  steps = {name: train["horizon"]["steps"] for name, train in trains.items()}
  assert rates == {"dense": 0.5, "mixture": 0.25, "projected": 0.5}
  assert steps == {"dense": 7, "mixture": 5, "projected": 5}
  assert [re.search(r"(\d+) steps", line)[1] for line in block[1::3]] == ["7", "5", "5"]
  assert config["specialize"]["train"]["horizon"]["steps"] == 40


def test_load_config_overrides_as_flags_do():
  overrides = {"pretrain.horizon.steps": 5, "methods.dense.pretrain.horizon.steps": 7}
  config = main.load_config(f"{tiny_study.__file__}:corpus", overrides)
  steps = {name: row.pretrain.horizon.steps for name, row in config.methods.items()}
  assert steps == {"dense": 7, "mixture": 5, "projected": 5}


def test_every_field_has_a_comment():
  """On its line or on a line of its own above; the comment of a group is not enough."""
  text = (FOLDER / "base.py").read_text()
  lines = ["", *text.splitlines()]
  fields = [
    (f"{ast.unparse(node.targets[0])} = {ast.unparse(node.value)}", node)
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Assign) and re.fullmatch(r"config\.\w+", ast.unparse(node.targets[0]))
  ] + [
    (f"{field.arg} = {ast.unparse(field.value)}", field)
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict"
    for field in node.keywords
  ]
  assert len(fields) > 60
  bare = [
    name
    for name, node in fields
    if not re.search(r"= (dict|linked|size|train)\(", name)
    and "  #" not in "\n".join(lines[node.lineno : node.end_lineno + 1])
    and not lines[node.lineno - 1].lstrip().startswith("#")
  ]
  assert not bare


def texts(count):
  """Yields documents of two topics with 100 made-up words each."""
  rng = np.random.default_rng(0)
  topics = rng.choice(list("abcdefghij"), (2, 100, 6)).view("U6")[..., 0]
  for _ in range(count):
    yield " ".join(rng.choice(topics[rng.integers(2)], 60)) + "."


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  """A folder in the format of the documentation corpus, with little text."""
  folder = tmp_path_factory.mktemp("corpora")
  config = MAKERS["documentation"]().to_dict()["data"]
  lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(80)).encode()
  for sources in (config["generic"], *config["domains"].values()):
    for pattern in itertools.chain(*sources.values()):
      compress = gzip.compress if pattern.endswith(".gz") else zstandard.compress
      (folder / pattern.replace("*", "0")).write_bytes(compress(lines))
  return folder


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_method_trains(corpora, tmp_path, name):
  config = MAKERS[name]("smoke")
  # Reading what is installed takes longer, and has its own tests.
  config.data = MAKERS["documentation"]("smoke").data
  config.data.folder = str(corpora)
  config.mesh.expert = 2
  config.pretrain.horizon.steps = 3
  config.pretrain.log_every = 1
  config.compilation_cache = ""
  parsed = parse(Config, config.to_dict())
  phases.run_verb("pretrain", parsed, tmp_path, "*", "a test")
  runs = study.runs(parsed, study.cells(parsed), "*")
  assert {run.name for run in runs} == {path.name for path in (tmp_path / "pretrain").iterdir()}
  for run in runs:
    folder = tmp_path / "pretrain" / run.name
    assert (folder / "result.json").exists()
    if parsed.methods[run.method].strategy != "none" and run.share == 1.0:
      lines = metrics.read(folder)
      assert [line["step"] for line in lines] == [1, 2, 3]
      assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
