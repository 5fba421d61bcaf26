"""Jobs that several runs may share through a folder: each is done once, by whoever is free.

A run is one process, or several that do everything together, of which the first holds the locks.
"""

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import filelock

from specialization import artifact, processes
from specialization.errors import MENDABLE, UserError

_WAIT = 1.0  # seconds between looks at what other processes are doing


@dataclasses.dataclass(frozen=True)
class Job:
  """A piece of work whose result is a file.

  Attributes:
    name: unique; names the lock.
    do: makes the result, going on from what is there, or finds it made.
    needs: names of jobs whose results it reads; those that are not among the jobs were done before.
  """

  name: str
  do: Callable[[], object]
  needs: tuple[str, ...] = ()


def _lock(workdir: Path, name: str) -> filelock.BaseFileLock:
  """Returns a lock that the system frees when its process ends, however it ends."""
  path = workdir / "locks" / f"{name.replace('/', '--')}.lock"
  path.parent.mkdir(parents=True, exist_ok=True)
  return filelock.FileLock(path)


@contextlib.contextmanager
def locked(workdir: Path, name: str) -> Iterator[None]:
  """Holds a lock, after waiting for a run that has it; its other processes come after its first."""
  with processes.writer_first(name):
    if not processes.is_writer():
      yield
      return
    lock = _lock(workdir, name)
    try:
      lock.acquire(blocking=False)
    except filelock.Timeout:
      print(f"Another process is at {name} in {workdir}: waiting for it.", flush=True)
      lock.acquire()
    try:
      yield
    finally:
      lock.release()


def complaint(workdir: Path, name: str) -> Path:
  """Returns where it is written why a job failed."""
  return workdir / "failed" / f"{name.replace('/', '--')}.txt"


def work(jobs: Sequence[Job], workdir: Path) -> None:
  """Does all jobs, or waits for other processes that do; one that fails does not stop the others.

  Args:
    jobs: those that are needed before those that need them.
    workdir: has the locks, and in `failed/` the sentence and traceback of each job that failed.

  Raises:
    UserError: some failed, after all others were done.
  """
  todo, failed = {job.name: job for job in jobs}, dict[str, str]()
  waiting, earlier = False, {job.name: _told(workdir, job.name) for job in jobs}
  while todo:
    before = len(todo)
    for job in list(todo.values()):
      processes.end_if_terminated(job.name)
      missing = [need for need in job.needs if need in failed]
      if missing:
        failed[job.name] = f"it needs {missing[0]}, which failed."
      elif any(need in todo for need in job.needs) or not _did(job, workdir, failed, earlier):
        continue
      del todo[job.name]
    if len(todo) == before:
      if not waiting:
        print(f"Waiting for other processes that do the last {before} jobs.", flush=True)
      waiting = True
      time.sleep(_WAIT)
  if failed:
    (name, why), *others = failed.items()
    if others:
      why = f"{1 + len(others)} of {len(jobs)} jobs failed, first {name}: {why}"
    raise UserError(why)


def _told(workdir: Path, name: str) -> int | None:
  """Returns when it was written why a job failed, by the clock of the disk; None: it was not."""
  path = complaint(workdir, name)
  return path.stat().st_mtime_ns if path.exists() else None


def _did(
  job: Job, workdir: Path, failed: dict[str, str], earlier: Mapping[str, int | None]
) -> bool:
  """Returns whether the job came to an end, False if another run is at it."""
  path, lock = complaint(workdir, job.name), _lock(workdir, job.name)

  def take() -> str | None:
    """Returns None if another run is at it, or just has been in vain: then why, else ""."""
    try:
      lock.acquire(blocking=False)
    except filelock.Timeout:
      return None
    told = _told(workdir, job.name)
    return "" if told in (None, earlier[job.name]) else path.read_text().partition("\n")[0]

  try:
    why = processes.of_writer(take)
    if why:
      failed[job.name] = why
    elif why is not None:
      _try(job, path, failed)
    return why is not None
  finally:
    lock.release()


def _try(job: Job, path: Path, failed: dict[str, str]) -> None:
  try:
    job.do()
    if processes.is_writer():
      path.unlink(missing_ok=True)
  except Exception as error:
    if isinstance(error, OSError) and error.errno in MENDABLE:  # None of this job's doing.
      processes.end_all(error)
      raise
    known = isinstance(error, UserError)
    why = str(error) if known else f"{type(error).__name__}: {error}"
    failed[job.name] = why
    if processes.is_writer():
      artifact.write_text(path, f"{why}\n\n{traceback.format_exc()}")
    print(f"{job.name} failed: {why}" + f" See {path}." * (not known), flush=True)
    processes.same_everywhere(error) if isinstance(error, UserError) else processes.end_all(error)
