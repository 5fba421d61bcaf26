"""The notebooks run from top to bottom, and hold no outputs."""

from pathlib import Path

import jax
import nbclient
import nbformat
import pytest

import specialization

ROOT = Path(specialization.__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def read(path):
  return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
  cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
  assert cells
  assert not [cell for cell in cells if cell.outputs or cell.execution_count]


def test_quickstart_ends_with_a_report(tmp_path, monkeypatch):
  monkeypatch.setenv("WORKDIR", str(tmp_path))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
  notebook = read(ROOT / "colabs/quickstart.ipynb")
  client = nbclient.NotebookClient(
    notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
  )
  client.execute()
  assert (tmp_path / "report/report.html").exists()
  shown = notebook.cells[-1].outputs[-1].data["text/html"]
  table = notebook.cells[-2].outputs[-1].data["text/markdown"]
  for method in ("slm", "slm_mix", "slm_pn"):
    assert method in shown
    assert f"| {method} " in table
