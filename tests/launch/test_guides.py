"""The commands of the guides are such as the scripts and the command line take."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from shell import ROOT, bash

GUIDES = [*sorted((ROOT / "docs/launch").glob("*.md")), ROOT / "README.md"]
ON_THIS_MACHINE = ("launch/quickstart.sh", "launch/test.sh")  # They take no --dry_run.


def commands(guide):
  """Returns the command lines of a guide's blocks of shell, as words."""
  blocks = re.findall(r"^```bash\n(.*?)^```$", guide.read_text(), re.M | re.S)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  return [shlex.split(line, comments=True) for line in lines if " <<" not in line and line]


def beginning(*words):
  """Returns those commands of all guides that begin so, each once, with their guide."""
  found = {
    (guide.name, tuple(command))
    for guide in GUIDES
    for command in commands(guide)
    if tuple(command[: len(words)]) == words
  }
  return sorted(found)


LAUNCHES = [(guide, command) for guide, command in beginning("bash") if "launch/" in command[1]]


@pytest.mark.parametrize(("guide", "command"), LAUNCHES)
def test_scripts_take_what_guides_give(guide, command):
  _, script, *arguments = command
  assert (ROOT / script).exists()
  if script not in ON_THIS_MACHINE:
    place = 0 if script == "launch/local_processes.sh" else 1
    result = bash(ROOT / script, *arguments[:place], "--dry_run", *arguments[place:])
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_each_script_has_a_guide():
  known = {command[1] for _, command in LAUNCHES}
  scripts = {f"launch/{path.name}" for path in (ROOT / "launch").glob("*.sh")}
  assert known == scripts - {"launch/setup.sh", "launch/flags.sh"}


@pytest.mark.parametrize(
  "command",
  sorted(
    {
      command
      for guide, command in beginning("python", "-m", "specialization")
      if guide != "README.md" or "--topology" in " ".join(command)
    }
    | {
      ("python", *command[command.index("--") + 1 :])
      for _, command in LAUNCHES
      if command[1] == "launch/local_processes.sh"
    }
  ),
  ids=" ".join,
)
def test_the_command_line_takes_what_guides_give(command):
  arguments = [word for word in command[1:] if word not in ("-m", "specialization")]
  result = subprocess.run(
    [sys.executable, "-m", "specialization", *arguments, "--print_config"],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_lead_somewhere(guide):
  for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", guide.read_text()):
    assert link.startswith("http") or (guide.parent / link).exists(), link
