"""Checkpoints: which are kept, on what mesh they come back, what is said of mistakes."""

import shutil
import time
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import tiny
from specialization.checkpoint import Checkpoints
from specialization.errors import Damaged, UserError
from specialization.train.state import TrainState


def make_state(step, mesh=None, width=16):
  """A state of few numbers, all different between steps, on a mesh."""
  mesh = mesh or tiny.mesh()
  kernel = np.arange(8 * width, dtype=np.float32).reshape(8, width) / 7 + step
  tree = TrainState(
    np.int32(step),
    {"kernel": kernel, "scale": kernel[0]},
    {"moment": kernel * 2, "count": kernel[0, 0]},
  )

  def place(leaf):
    spec = PartitionSpec("fsdp", "model") if np.ndim(leaf) == 2 else PartitionSpec()
    return jax.device_put(leaf, NamedSharding(mesh, spec))

  return jax.tree.map(place, tree)


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def filled(folder, validations):
  checkpoints = Checkpoints(folder)
  for step, validation in validations.items():
    checkpoints.save(step, make_state(step), {"of": step}, validation)
  checkpoints.close()
  return Checkpoints(folder)


def on_disk(folder):
  return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
  ("validations", "best", "latest"),
  [
    ({1: 3.0, 2: 1.0, 3: 2.0}, 2, 3),
    ({1: 1.0, 2: 2.0, 3: None}, 1, 3),
    ({1: 3.0, 2: 2.0, 3: 1.0}, 3, 3),
    ({1: 2.0, 2: float("nan"), 3: 3.0}, 1, 3),
    ({1: float("nan"), 2: 2.0, 3: float("inf")}, 2, 3),
    ({3: None, 6: None, 9: None}, 9, 9),
  ],
)
def test_best_and_latest_are_kept_and_no_other(tmp_path, validations, best, latest):
  checkpoints = filled(tmp_path, validations)
  assert (checkpoints.best(), checkpoints.latest()) == (best, latest)
  assert on_disk(tmp_path) == {str(best), str(latest)}
  state, metadata = checkpoints.restore(best, abstract(make_state(0)))
  chex.assert_trees_all_equal(state, make_state(best))
  assert metadata == {"of": best}


def test_an_empty_folder_has_none(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() is None
  assert checkpoints.best() is None


@pytest.mark.parametrize(("saved", "wanted"), [(1, 8), (8, 1)])
def test_restored_on_another_mesh(tmp_path, saved, wanted):
  meshes = {1: tiny.mesh(), 8: tiny.mesh(8, fsdp=4, model=2)}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(5, make_state(5, meshes[saved]), {})
  checkpoints.wait()
  expected = make_state(5, meshes[wanted])
  state, _ = checkpoints.restore(5, abstract(expected))
  params = checkpoints.restore_params(5, abstract(expected.params))
  for found, right in ((state, expected), (params, expected.params)):
    chex.assert_trees_all_equal(found, right)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
      assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_what_a_kill_left_half_written_is_not_a_checkpoint(tmp_path):
  filled(tmp_path, {3: None}).close()
  half = tmp_path / "6.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "3", half)
  (half / "_CHECKPOINT_METADATA").unlink()
  assert Checkpoints(tmp_path, read_only=True).latest() == 3
  time.sleep(0.3)  # cleaning goes on in the background
  assert half.exists(), "a reader cleans up behind a run that may be writing"
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() == 3
  checkpoints.save(9, make_state(9), {})
  checkpoints.close()
  assert on_disk(tmp_path) == {"9"}


@pytest.mark.parametrize("change", ["width", "names"])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, change):
  checkpoints = filled(tmp_path, {3: None})
  like = abstract(make_state(0, width=32 if change == "width" else 16))
  if change == "names":
    like.params["bias"] = like.params.pop("scale")
  for restore in (
    lambda: checkpoints.restore(3, like),
    lambda: checkpoints.restore_params(3, like.params),
  ):
    with pytest.raises(UserError, match=r"step 3 .* not one of this model .*(kernel|bias) is"):
      restore()


def test_another_optimizer_is_refused(tmp_path):
  checkpoints = filled(tmp_path, {3: None})
  like = abstract(make_state(0))
  like.opt_state["second moment"] = like.opt_state["moment"]
  with pytest.raises(UserError, match="other optimizer"):
    checkpoints.restore(3, like)


def test_a_deleted_checkpoint_is_told(tmp_path):
  checkpoints = filled(tmp_path, {3: None})
  with pytest.raises(UserError, match="no complete checkpoint"):
    checkpoints.restore_params(0, abstract(make_state(0)).params)


def test_a_checkpoint_that_has_no_room_is_refused_before_it_is_begun(tmp_path, monkeypatch):
  checkpoints = filled(tmp_path, {3: None})
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(make_state(0)))
  monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
  with pytest.raises(UserError, match=r"0 MB free, .* step 6 .* goes on from step 3"):
    checkpoints.save(6, make_state(6), {})
  monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
  checkpoints.save(9, make_state(9), {})
  checkpoints.close()
  assert on_disk(tmp_path) == {"9"}


def damage(path, how):
  data = bytearray(path.read_bytes())
  if how == "gone":
    path.unlink()
  elif how == "cut":
    path.write_bytes(data[: len(data) // 2])
  else:
    middle = slice(len(data) // 2, len(data) // 2 + 16)
    data[middle] = bytes(255 - byte for byte in data[middle])
    path.write_bytes(data)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two") / "checkpoints"
  checkpoints = Checkpoints(folder, last=2)
  for step in (3, 6):
    checkpoints.save(step, make_state(step), {"of": step})
  checkpoints.close()
  return folder


@pytest.mark.parametrize("how", ["gone", "cut", "garbled"])
def test_whatever_file_is_damaged_what_comes_back_is_what_was_saved(two, tmp_path, how, capsys):
  files = sorted(path.relative_to(two) for path in (two / "6").rglob("*") if path.is_file())
  fell_back = 0
  for i, file in enumerate(files):
    folder = tmp_path / str(i) / "checkpoints"
    shutil.copytree(two, folder)
    damage(folder / file, how)
    state, metadata, step = Checkpoints(folder, last=2).resume(abstract(make_state(0)))
    chex.assert_trees_all_equal(state, make_state(step))
    assert metadata == {"of": step}
    assert (folder.parent / "damaged-6").exists() == (step == 3)
    fell_back += step == 3
  assert len(files) > 15
  assert capsys.readouterr().out.count("The checkpoint of step 6 is damaged, and put aside: ") == (
    fell_back
  )
  assert fell_back >= 5


def test_numbers_that_changed_are_seen(two, tmp_path):
  """Nothing that the library looks at is wrong: a number is another one."""
  shutil.copytree(two, tmp_path / "run" / "checkpoints")
  folder = tmp_path / "run" / "checkpoints"
  other = make_state(6)
  other.params["kernel"] = other.params["kernel"].at[3, 5].add(1e-6)
  shutil.rmtree(folder / "6" / "params")
  forged = tmp_path / "forged"
  made = Checkpoints(forged)
  made.save(6, other, {})
  made.close()
  shutil.copytree(forged / "6" / "params", folder / "6" / "params")
  with pytest.raises(Damaged, match=r"step 6 .* \(kernel of params is another\)"):
    Checkpoints(folder, read_only=True).restore(6, abstract(make_state(0)))
  with pytest.raises(Damaged, match="kernel of params"):
    Checkpoints(folder, read_only=True).restore_params(6, abstract(make_state(0)).params)
  with pytest.raises(Damaged, match="kernel of params"):
    Checkpoints(folder, read_only=True).leaf(6, ("kernel",))
  np.testing.assert_array_equal(
    Checkpoints(folder, read_only=True).leaf(6, ("scale",)), make_state(6).params["scale"]
  )
  _, _, step = Checkpoints(folder, last=2).resume(abstract(make_state(0)))
  assert step == 3


def test_if_all_are_damaged_it_does_not_begin_anew_by_itself(two, tmp_path):
  folder = tmp_path / "run" / "checkpoints"
  shutil.copytree(two, folder)
  for step in ("3", "6"):
    damage(folder / step / "params" / "manifest.ocdbt", "cut")
  for _ in range(2):
    with pytest.raises(UserError, match=r"were damaged \(damaged-3, damaged-6\): delete"):
      Checkpoints(folder, last=2).resume(abstract(make_state(0)))
  assert on_disk(folder.parent) == {"checkpoints", "damaged-3", "damaged-6"}


def test_what_is_kept_while_it_runs_and_afterwards(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=(2,), last=2, every=4)
  for step in range(1, 8):
    checkpoints.save(step, make_state(step), {}, validation=abs(step - 3.0))
  checkpoints.wait()
  assert on_disk(tmp_path) == {"2", "3", "4", "6", "7"}
  checkpoints.finish()
  assert on_disk(tmp_path) == {"2", "3", "4", "7"}
