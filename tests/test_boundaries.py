"""Who may import whom, read from the source."""

import ast
import functools
import re
from pathlib import Path

import pytest

import specialization

ROOT = Path(specialization.__file__).parent
PACKAGES = ("models", "data", "train")
FILES = {
  ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
  for path in sorted(ROOT.rglob("*.py"))
}
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
WITH_JAX = {"data.pipeline", "data.embed", "data.sentence", "data.clusters"}
CONCRETE = {"models.dense", "models.mixture", "models.projected"}
CONFIG = re.compile(r"\b(config|cfg|options|optimizer|horizon|compute|model|row|train|record)\b")


@functools.cache
def tree(module: str) -> ast.Module:
  return ast.parse(FILES[module].read_text())


@functools.cache
def imported(module: str) -> frozenset[str]:
  """Returns the modules that are imported, those of this package without its name."""
  found = set()
  for node in ast.walk(tree(module)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{module} imports relatively"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  ours = {name.removeprefix("specialization.") for name in found if name[:15] == "specialization."}
  known = {name if name in FILES else name.rpartition(".")[0] for name in ours}
  return frozenset(known | {n.partition(".")[0] for n in found if n[:14] != "specialization"})


def reached(module: str) -> set[str]:
  """Returns all that an import of a module brings in, however far."""
  seen, todo = set(), [module]
  while todo:
    name = todo.pop()
    if name not in seen:
      seen.add(name)
      todo += imported(name) if name in FILES else ()
  return seen


def of(package: str) -> list[str]:
  return [name for name in FILES if name.partition(".")[0] == package]


@pytest.mark.parametrize(
  "module", ["config", "method", "budgets", "errors", "artifact", "study", "main", *of("report")]
)
def test_bookkeeping_reaches_no_jax(module):
  assert not reached(module) & {"jax", "flax", "optax", "orbax", "grain"}


@pytest.mark.parametrize("module", sorted(set(of("data")) - WITH_JAX))
def test_data_reaches_no_jax(module):
  assert "jax" not in reached(module)


@pytest.mark.parametrize("module", of("data"))
def test_data_knows_no_model_but_the_encoder(module):
  found = {name for name in imported(module) if name.partition(".")[0] == "models"}
  assert found <= ({"models.encoder"} if module == "data.sentence" else set())


def test_losses_import_jax_alone():
  assert imported("losses") == {"jax", "jaxtyping"}


@pytest.mark.parametrize("module", of("models"))
def test_models_know_no_data_optimizer_or_checkpoint(module):
  found = {name.partition(".")[0] for name in reached(module)}
  assert not found & {"data", "optim", "checkpoint", "train", "phases", "optax", "orbax", "grain"}


@pytest.mark.parametrize("module", of("report"))
def test_the_report_reads_results_alone(module):
  found = {name.partition(".")[0] for name in reached(module)}
  assert not found & {"phases", "models", "data", "train", "checkpoint"}


@pytest.mark.parametrize("module", of("train"))
def test_training_knows_no_concrete_family(module):
  assert not imported(module) & (CONCRETE | {"models"})


@pytest.mark.parametrize("module", FILES)
def test_flax_stays_in_layers_and_models(module):
  assert "flax" not in imported(module) or module == "layers" or module in of("models")


@pytest.mark.parametrize("module", sorted(set(FILES) - set(of("phases")) - {"main"}))
def test_only_phases_build_objects(module):
  """Elsewhere no file calls what comes from more than one of models, data and train."""
  origin = {
    alias.asname or alias.name: node.module.split(".")[1]
    for node in ast.walk(tree(module))
    if isinstance(node, ast.ImportFrom) and node.module.startswith("specialization.")
    for alias in node.names
  } | {
    alias.asname or alias.name: alias.name
    for node in ast.walk(tree(module))
    if isinstance(node, ast.ImportFrom) and node.module == "specialization"
    for alias in node.names
  }
  calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
  names = {ast.unparse(call).partition(".")[0] for call in calls}
  called = {origin[name] for name in names & set(origin)} & set(PACKAGES)
  assert len(called - {module.partition(".")[0]}) <= 1, called


@pytest.mark.parametrize("path", [*FILES.values(), *TESTS], ids=str)
def test_files_can_be_read_in_one_sitting(path):
  assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", FILES)
def test_config_fields_have_no_second_default(module):
  for node in ast.walk(tree(module)):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      with_default = node.func.attr == "get" and len(node.args) + len(node.keywords) > 1
      assert not (with_default and CONFIG.search(ast.unparse(node.func.value))), ast.unparse(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
      assert len(node.args) < 3, ast.unparse(node)
