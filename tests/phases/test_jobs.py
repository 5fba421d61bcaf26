"""Jobs are each done once, by whoever is free, and one that fails stops only those that need it."""

import errno
import multiprocessing
import os
import signal
import time

import pytest

from specialization import processes
from specialization.errors import Terminated, UserError
from specialization.phases import jobs as module
from specialization.phases.jobs import Job, complaint, locked, work


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(module, "_WAIT", 0.01)


def appender(folder, name, seconds=0.0):
  """Returns a job's `do` that leaves one line for each time it really works."""

  def do():
    if not (folder / f"{name}.done").exists():
      with (folder / "order.txt").open("a") as file:
        file.write(f"{name}\n")
      time.sleep(seconds)
      (folder / f"{name}.done").touch()

  return do


def order(folder):
  return (folder / "order.txt").read_text().split()


def test_jobs_are_done_in_order_and_only_once(tmp_path):
  jobs = [Job(n, appender(tmp_path, n)) for n in "ab"]
  jobs.append(Job("c", appender(tmp_path, "c"), ("a", "b", "done before")))
  work(jobs, tmp_path)
  work(jobs, tmp_path)
  assert order(tmp_path) == ["a", "b", "c"]


def test_a_failed_job_stops_only_those_that_need_it(tmp_path, capsys):
  def fail():
    raise UserError("The domain is empty: add text.")

  jobs = [
    Job("pretrain/a", fail),
    Job("b", appender(tmp_path, "b"), ("pretrain/a",)),
    Job("c", appender(tmp_path, "c"), ("b",)),
    Job("d", appender(tmp_path, "d")),
  ]
  with pytest.raises(
    UserError, match=r"^3 of 4 jobs failed, first pretrain/a: The domain is empty"
  ):
    work(jobs, tmp_path)
  assert order(tmp_path) == ["d"]
  assert "pretrain/a failed: The domain is empty: add text.\n" in capsys.readouterr().out
  path = complaint(tmp_path, "pretrain/a")
  assert path.read_text().startswith("The domain is empty: add text.\n\nTraceback")
  jobs[0] = Job("pretrain/a", appender(tmp_path, "a"))
  work(jobs, tmp_path)
  assert not path.exists()
  assert order(tmp_path) == ["d", "a", "b", "c"]


def test_one_failure_is_told_as_it_is(tmp_path):
  def fail():
    raise ZeroDivisionError("by zero")

  with pytest.raises(UserError, match=r"^ZeroDivisionError: by zero$"):
    work([Job("a", fail)], tmp_path)


def test_a_lost_disk_stops_everything(tmp_path):
  def fail():
    raise OSError(errno.EIO, "gone")

  with pytest.raises(OSError, match="gone"):
    work([Job("a", fail), Job("b", appender(tmp_path, "b"))], tmp_path)
  assert not (tmp_path / "order.txt").exists()


def test_a_lost_file_stops_its_job(tmp_path):
  with pytest.raises(UserError, match=r"^FileNotFoundError: .*no\.txt"):
    work([Job("a", (tmp_path / "no.txt").read_text), Job("b", appender(tmp_path, "b"))], tmp_path)
  assert order(tmp_path) == ["b"]


def test_what_failed_elsewhere_meanwhile_is_not_tried_again(tmp_path):
  def fail_elsewhere():
    path = complaint(tmp_path, "b")
    path.parent.mkdir()
    path.write_text("Too large: make it smaller.\n\nTraceback")

  jobs = [Job("a", fail_elsewhere), Job("b", appender(tmp_path, "b"))]
  with pytest.raises(UserError, match=r"^Too large: make it smaller\.$"):
    work(jobs, tmp_path)
  assert not (tmp_path / "order.txt").exists()


def chain(folder):
  jobs = [Job(f"p{i}", appender(folder, f"p{i}", 0.02)) for i in range(4)]
  return jobs + [Job(f"c{i}", appender(folder, f"c{i}", 0.02), (f"p{i % 4}",)) for i in range(12)]


def worker(folder):
  module._WAIT = 0.01
  work(chain(folder), folder)


def test_several_processes_share_the_jobs(tmp_path):
  fork = multiprocessing.get_context("spawn")
  processes = [fork.Process(target=worker, args=(tmp_path,)) for _ in range(3)]
  for process in processes:
    process.start()
  for process in processes:
    process.join(120)
    assert process.exitcode == 0
  done = order(tmp_path)
  assert sorted(done) == sorted(job.name for job in chain(tmp_path))
  assert all(done.index(f"p{i % 4}") < done.index(f"c{i}") for i in range(12))


def hold(folder):
  with locked(folder, "a"):
    (folder / "held").touch()
    time.sleep(600)


def test_the_job_of_a_killed_process_is_taken_over(tmp_path, capsys):
  other = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path,))
  other.start()
  while not (tmp_path / "held").exists():
    time.sleep(0.01)
  jobs = [Job("b", lambda: os.kill(other.pid, signal.SIGKILL)), Job("a", appender(tmp_path, "a"))]
  work(jobs[::-1], tmp_path)
  assert order(tmp_path) == ["a"]
  other.join()


def test_a_lock_is_waited_for(tmp_path, capsys):
  other = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path,))
  other.start()
  while not (tmp_path / "held").exists():
    time.sleep(0.01)
  os.kill(other.pid, signal.SIGSTOP)
  real = module.filelock.FileLock.acquire

  def acquire(self, *args, **kwargs):
    if not kwargs:
      os.kill(other.pid, signal.SIGKILL)
    return real(self, *args, **kwargs)

  module.filelock.FileLock.acquire = acquire
  try:
    with locked(tmp_path, "a"):
      assert f"Another process is at a in {tmp_path}" in capsys.readouterr().out
  finally:
    module.filelock.FileLock.acquire = real
    other.join()


def test_a_signal_ends_several_processes_before_a_job(tmp_path, monkeypatch):
  monkeypatch.setattr(processes, "_place", processes._Place(0, 2))
  monkeypatch.setattr(processes.multihost, "reached_preemption", lambda _: True)
  with pytest.raises(Terminated, match="Terminated before a"):
    work([Job("a", appender(tmp_path, "a"))], tmp_path)
  assert not (tmp_path / "order.txt").exists()
