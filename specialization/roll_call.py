"""Whether all processes of a run are there, told with the numbers of those that are not.

JAX waits for them too, and then ends the process without a word of who it waited for.
"""

import contextlib
import json
import socket
import time

from specialization.errors import UserError

_RETRY = 0.2  # seconds between attempts to reach the first process
_GRACE = 10.0  # seconds that its answer may take beyond the time that all have


def call(coordinator: str, count: int, index: int, timeout: float | int) -> None:
  """Returns when all processes are there.

  Args:
    coordinator: HOST:PORT of the first of them; the port is free again afterwards.
    count: of processes.
    index: of this one.
    timeout: seconds in which they have to come.

  Raises:
    UserError: some do not, or two have one number.
  """
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise UserError(f"--coordinator={coordinator} is no address: give HOST:PORT.")
  end = time.monotonic() + timeout
  if index == 0:
    amiss: str | None = _lead(int(port), count, end)
  else:
    amiss = _follow(host, int(port), index, timeout)
  if amiss is None:
    raise UserError(
      f"Process 0 did not answer at {coordinator} within {timeout:g} s: see whether it runs, and"
      " whether this machine can reach that address."
    )
  if amiss:
    raise UserError(amiss)


def _lead(port: int, count: int, end: float) -> str:
  """Waits for the others, tells each what is amiss, and returns it; "": nothing."""
  present: dict[int, socket.socket] = {}
  waited, amiss = end - time.monotonic(), ""
  with contextlib.ExitStack() as opened:
    try:
      server = opened.enter_context(socket.create_server(("", port)))
    except OSError as error:
      raise UserError(
        f"Port {port} of process 0 cannot be used ({error.strerror}): give another --coordinator."
      ) from error
    while not amiss and len(present) < count - 1 and (left := end - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(TimeoutError, ValueError, ConnectionError):
        other = opened.enter_context(server.accept()[0])
        other.settimeout(_GRACE)
        number = int(_line(other))
        if not 0 < number < count:
          amiss = f"There is a process {number}, but {count} in all: give all the same --processes."
        elif number in present:
          amiss = f"Two processes are number {number} of {count}: give each its own."
        present[-number if amiss else number] = other
    absent = [str(number) for number in range(1, count) if number not in present]
    if absent and not amiss:
      amiss = (
        f"{len(absent)} of {count} processes did not come within {waited:.0f} s: process"
        f" {', '.join(absent)}. See what they say, and start all within that time."
      )
    for other in present.values():
      with contextlib.suppress(OSError):
        other.sendall(json.dumps(amiss).encode() + b"\n")
        other.recv(1)  # It closes first, so that the port is free at once.
  return amiss


def _follow(host: str, port: int, index: int, timeout: float | int) -> str | None:
  """Tells the first process that this one is there; returns what is amiss, None if that is away."""
  end = time.monotonic() + timeout
  while time.monotonic() < end:
    try:
      with socket.create_connection((host, port), timeout=_RETRY + _GRACE) as first:
        first.settimeout(timeout + _GRACE)  # It may have begun to wait only now.
        first.sendall(f"{index}\n".encode())
        amiss: str = json.loads(_line(first))
        return amiss
    except (OSError, ValueError):
      time.sleep(_RETRY)
  return None


def _line(of: socket.socket) -> str:
  with of.makefile() as text:
    return text.readline()
