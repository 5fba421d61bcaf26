"""Runs the scripts of launch/ with the commands that a test allows."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import specialization

ROOT = Path(specialization.__file__).parents[1]
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "gzip", "mkdir", "rm", "sh", "tail", "tar")
COMMANDS = ("gcloud", "tar", "bash", "mkdir", "kubectl")
NAP = "#!/bin/sh\nexec /bin/sleep 0.1\n"


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def link(folder, *tools):
  for tool in tools:
    (folder / tool).symlink_to(shutil.which(tool))


def clone(folder):
  """Makes a checkout of the scripts and a config, with nothing installed."""
  (folder / "configs").mkdir(parents=True)
  shutil.copytree(ROOT / "launch", folder / "launch")
  shutil.copy(ROOT / "configs/slm.py", folder / "configs")
  return folder


def environment(path=None, **variables):
  return {**os.environ, **variables} | ({"PATH": str(path)} if path else {})


def bash(script, *arguments, path=None, **variables):
  return subprocess.run(
    ["bash", str(script), *arguments],
    env=environment(path, **variables),
    cwd="/",
    capture_output=True,
    text=True,
    timeout=60,
  )


def until(condition, seconds=20):
  """Waits for something to be there that another process makes."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it does not come"
    time.sleep(0.02)


def is_bash(text):
  return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""


def sentence(result):
  """Returns the one line with which a script refused."""
  assert result.returncode == 2, result
  assert not result.stdout
  (line,) = result.stderr.splitlines()
  assert line.startswith("error: ")
  assert line.endswith(".")
  return line


def dry_run(script, *arguments, path=None):
  """Returns what a script prints that it would do."""
  subcommand, *flags = arguments
  result = bash(ROOT / "launch" / script, subcommand, "--dry_run", *flags, path=path)
  assert result.returncode == 0, result.stderr
  assert is_bash(result.stdout)
  return result.stdout


def commands(text):
  """Returns the commands of a dry run, each quoted in one way."""
  found = []
  for word in shlex.split(text):
    if word in COMMANDS:
      found.append([])
    found[-1].append(word)
  return [shlex.join(words) for words in found]


def documents(text):
  """Returns what the commands of a dry run are given to read."""
  return [part.partition("\nEND\n")[0] for part in text.split("<<'END'\n")[1:]]
