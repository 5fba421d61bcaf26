"""Command line: python -m specialization VERB --config=FILE[:variant] --workdir=DIR."""

import contextlib
import importlib
import itertools
import logging
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from specialization.config import Config
from specialization.errors import MENDABLE, Terminated, UserError
from specialization.strict import known_key, one_of, parse

PHASES = ("run", "prepare", "pretrain", "specialize", "evaluate", "report")
VERBS = (*PHASES, "export", "import", "generate", "cells", "describe", "doctor")

USAGE = f"""Small specialized language models under four budgets.

  python -m specialization VERB --config=configs/NAME.py[:variant] --workdir=DIR [--config.X=VALUE]

VERB is one of {", ".join(VERBS)}.
`run` does all of it and goes on where it stopped; most others do one phase of it. `export` writes
models for others to load, `import` takes one of theirs, `generate` text by one of them. `cells`
lists the cells of the study with their states, `describe` where each parameter lies on the mesh.
Several processes may run the same study in one folder."""

_ASKED = (
  "prompt",
  "prompts",
  "tokens",
  "batch",
  "temperature",
  "top_k",
  "top_p",
  "stop",
  "seed",
)
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def _define(values: flags.FlagValues, arguments: list[str]) -> None:
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with :variant.",
    flag_values=values,
    sys_argv=["specialization", *arguments],
  )
  flags.DEFINE_string("workdir", "", "Folder for everything that is made.", flag_values=values)
  flags.DEFINE_string(
    "only",
    "*",
    "Pattern of the methods or cells (METHOD--DOMAIN--TOKENS--bPERCENT--sSEED) to work on.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "mesh", "", "Preset of config.mesh, a name in meshes/ beside configs.", flag_values=values
  )
  flags.DEFINE_string(
    "format", "hf", "Of `export`: hf, gguf, mlx or stablehlo.", flag_values=values
  )
  flags.DEFINE_string(
    "dtype", "", "Of its numbers, such as float16 or q8_0; the format's widest.", flag_values=values
  )
  flags.DEFINE_string(
    "expert",
    "",
    "Not a cell's model, but this expert of its pretraining: a number, or a domain whose histogram"
    " mixes all.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "to", "", "Folder of what is exported or imported; in WORKDIR.", flag_values=values
  )
  _define_generation(values)
  flags.DEFINE_integer(
    "devices", 0, "That `describe` is to suppose; 0: those that are here.", flag_values=values
  )
  flags.DEFINE_string(
    "topology",
    "",
    "TPUs, such as v5p:4x4x4, that `doctor` compiles for without any at hand.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "coordinator",
    "",
    "Of several processes of one run, HOST:PORT of the first; auto: as SLURM, TPU pods or GKE say.",
    flag_values=values,
  )
  flags.DEFINE_integer("processes", 0, "Their number.", flag_values=values)
  flags.DEFINE_integer("process", 0, "Which of them this is, from 0.", flag_values=values)
  flags.DEFINE_integer("meet_within", 300, "Seconds to wait for them.", flag_values=values)
  flags.DEFINE_bool(
    "print_config", False, "Print config and budgets, then exit.", flag_values=values
  )
  flags.DEFINE_bool(
    "check", True, "Let `export` open and compare what it wrote.", flag_values=values
  )
  flags.DEFINE_bool(
    "inference",
    False,
    "Let `evaluate` measure what exports cost where they run.",
    flag_values=values,
  )
  flags.DEFINE_bool("debug", False, "Show tracebacks.", flag_values=values)
  flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)


def _define_generation(values: flags.FlagValues) -> None:
  """Defines what `generate` alone has."""
  texts = {
    "model": "Folder that `export --format=hf` or transformers wrote; else a cell, as --only says.",
    "prompt": "To go on from.",
    "prompts": "File with one prompt a line; each is answered by a JSON line.",
  }
  for name, text in texts.items():
    flags.DEFINE_string(name, "", text, flag_values=values)
  flags.DEFINE_multi_string("stop", [], "Text before which to end.", flag_values=values)
  counts = {
    "tokens": (100, "That are generated at most."),
    "batch": (16, "Prompts of a file that are answered together."),
    "top_k": (0, "Draw one of so many likeliest tokens; 0: of all."),
    "seed": (0, "Of what is drawn."),
  }
  for name, (number, text) in counts.items():
    flags.DEFINE_integer(name, number, text, flag_values=values)
  flags.DEFINE_float(
    "temperature", 0.0, "Of what is drawn; 0: the likeliest token.", flag_values=values
  )
  flags.DEFINE_float(
    "top_p", 1.0, "Draw of those that make up so much of the probability.", flag_values=values
  )


def _load(spec: str, fields: Iterable[str]) -> ConfigDict:
  """Returns the config of FILE[:variant], after a check that it has these dotted fields."""
  path, _, variant = spec.partition(":")
  if not Path(path).is_file():
    known = [p.as_posix() for p in sorted(Path(path or "configs/*").parent.glob("*.py"))]
    one_of("--config", path, tuple(known) or ("configs/quickstart.py",))
  for folder in (Path(path).parent.parent, Path(path).parent):  # So that configs can share code.
    if str(folder.absolute()) not in sys.path:
      sys.path.insert(0, str(folder.absolute()))
  try:
    make = runpy.run_path(path)["get_config"]
    tree: Any = make(variant) if variant else make()
  except Exception as error:
    reason = f"{type(error).__name__}: {error}".replace("\n", " ").rstrip(".")
    raise UserError(f"{spec} gives no config ({reason}): see --debug for where.") from error
  if not isinstance(tree, ConfigDict):
    raise UserError(f"get_config of {path} must return a ConfigDict, not {tree!r}.")
  for field in fields:
    node: Any = tree
    for depth, key in enumerate(field.split(".")):
      where = ".".join(["config", *field.split(".")[:depth]])
      if not isinstance(node, ConfigDict):
        raise UserError(f"{where} is a value and has no field {key!r}.")
      known_key(where, key, node.keys())
      node = node[key]
  return tree


def _given(arguments: list[str], flag: str) -> list[str]:
  """Returns the values of a flag, which may stand in one word or in two."""
  found = [a.removeprefix(f"{flag}=") for a in arguments if a.startswith(f"{flag}=")]
  return found + [value for name, value in itertools.pairwise(arguments) if name == flag]


def preset(configs: Path, name: str) -> dict[str, int]:
  """Returns the sizes of a mesh that has a name, in `meshes` of a folder of configs or of ours."""
  folders = (Path(__file__).parents[1] / "configs", configs)
  known = {path.stem: path for folder in folders for path in sorted(folder.glob("meshes/*.py"))}
  one_of("--mesh", name, tuple(known))
  sizes: dict[str, int] = runpy.run_path(str(known[name]))["MESH"]
  return sizes


def _parse(arguments: list[str]) -> tuple[str, flags.FlagValues]:
  specs = _given(arguments, "--config")
  if specs and (presets := _given(arguments, "--mesh")):
    after = 1 + next(i for i, a in enumerate(arguments) if a.endswith(specs[0]))
    sizes = preset(Path(specs[0].partition(":")[0]).parent, presets[-1]).items()
    fields = [f"--config.mesh.{axis}={size}" for axis, size in sizes]
    arguments = [*arguments[:after], *fields, *arguments[after:]]  # What is given comes after.
  values = flags.FlagValues()
  _define(values, arguments)
  fields = [a[len("--config.") :].partition("=")[0] for a in arguments if a[:9] == "--config."]
  for spec in specs:
    _load(spec, fields)
  try:
    rest = values(["specialization", *arguments])[1:]
  except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
    sentence = str(error.args[0] if error.args else error).strip().replace("\n", " ")
    raise UserError(f"Wrong flag: {sentence.rstrip('.')}. See --help.") from error
  if values.help or not rest:
    print(f"{USAGE}\n\nFlags:\n{values.module_help('specialization.main')}")
    sys.exit(0 if values.help else 2)
  one_of("The verb", rest[0], VERBS)
  if len(rest) > 1:
    raise UserError(f"Only one verb at a time, not also {' '.join(rest[1:])}: flags begin with --.")
  return rest[0], values


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> Config:
  """Returns the config of FILE[:variant] with some fields set, for notebooks and tests.

  Args:
    spec: path of a config file, with an optional variant.
    overrides: {"pretrain.horizon.steps": 100, ...}.
  """
  overrides = dict(overrides or {})
  tree = _load(spec, overrides)
  tree.update_from_flattened_dict(overrides)
  return parse(Config, tree.to_dict())


def main(arguments: list[str]) -> None:
  """Runs one verb.

  Raises:
    UserError: what a person can mend.
  """
  verb, values = _parse(arguments)
  asked = {name: values[name].value for name in _ASKED} if verb == "generate" else {}
  if verb == "generate" and values.model:
    with _mended(values.model):
      importlib.import_module("specialization.phases.generate").answer_from(values.model, **asked)
    return
  if values.config is None:
    raise UserError("Which config? Give one, for example --config=configs/quickstart.py.")
  config = parse(Config, values.config.to_dict())
  # JAX starts only now, so that mistakes above are told in a moment.
  processes = importlib.import_module("specialization.processes")
  processes.start(values.coordinator, values.processes, values.process, values.meet_within)
  phases = importlib.import_module("specialization.phases")
  if values.print_config:
    print(phases.describe(config))
    return
  if verb == "describe":
    topology = importlib.import_module("specialization.phases.topology")
    print(topology.describe(config, values.devices))
    return
  if verb == "doctor":
    doctor = importlib.import_module("specialization.phases.doctor")
    workdir = Path(values.workdir).expanduser() if values.workdir else None
    sys.exit(doctor.run(config, workdir, values.topology, values.only))
  if not values.workdir:
    raise UserError("Where to? Give a folder for everything that is made: --workdir=DIR.")
  command = "python -m specialization " + " ".join(arguments)
  options = asked
  if verb == "evaluate" and values.inference:
    options = {"inference": True, "to": values.to}
  if verb == "import":
    options = {"model": values.model, "to": values.to}
  if verb == "export":
    options = {"kind": values.format, "dtype": values.dtype}
    options |= {"to": values.to, "expert": values.expert, "is_checked": values.check}
  workdir = Path(values.workdir).expanduser()
  with _mended(values.workdir):
    phases.run_verb(verb, config, workdir, values.only, command, **options)


@contextlib.contextmanager
def _mended(place: str) -> Iterator[None]:
  """Tells of a disk or folder that a person can mend."""
  try:
    yield
  except OSError as error:
    if error.errno not in MENDABLE:
      raise
    raise UserError(
      f"{error.filename or place} cannot be used ({error.strerror}): mend that and run again, it"
      " goes on from what is complete."
    ) from error


def use_huge_pages() -> None:
  """Starts again with huge pages for large arrays: training on a CPU is a quarter faster."""
  tunables = os.environ.get("GLIBC_TUNABLES", "")
  if not sys.platform.startswith("linux") or "hugetlb" in tunables:
    return
  os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, _HUGE_PAGES)))
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _tell_unraisable(unraisable: Any) -> None:
  """Leaves out what TensorStore reports to an event loop that an error of Orbax has closed."""
  if "Event loop is closed" not in str(unraisable.exc_value):
    sys.__unraisablehook__(unraisable)


def console() -> None:
  """Entry point: errors of a person are one sentence, and the exit status 2."""
  use_huge_pages()
  # Orbax is talkative, and logs the errors of its threads that it raises again later; of tasks
  # that failed together it raises one, and asyncio logs the others.
  if "--debug" not in sys.argv:
    for name in ("absl", "asyncio"):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _tell_unraisable
  try:
    main(sys.argv[1:])
    sys.stdout.flush()
  except BrokenPipeError:
    # The reader has seen enough, as `head` does; what is still buffered goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except UserError as error:
    if "--debug" in sys.argv:
      traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except Terminated as end:
    print(f"{end} Run the same command again to go on.", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)
  except KeyboardInterrupt:
    print("Stopped. Run the same command again to go on.", file=sys.stderr)
    sys.exit(130)
