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


def call(coordinator: str, count: int, index: int, timeout: float) -> None:
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
  absent = _lead(int(port), count, end) if index == 0 else _follow(host, int(port), index, end)
  if absent is None:
    raise UserError(
      f"Process 0 did not answer at {coordinator} within {timeout:g} s: see whether it runs, and"
      " whether this machine can reach that address."
    )
  if absent:
    raise UserError(
      f"{len(absent)} of {count} processes did not come within {timeout:g} s: process"
      f" {', '.join(map(str, absent))}. See what they say, and start all within that time."
    )


def _lead(port: int, count: int, end: float) -> list[int]:
  """Waits for the others, tells each who is absent, and returns it."""
  present: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as opened:
    try:
      server = opened.enter_context(socket.create_server(("", port)))
    except OSError as error:
      raise UserError(
        f"Port {port} of process 0 cannot be used ({error.strerror}): give another --coordinator."
      ) from error
    while len(present) < count - 1 and (left := end - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(TimeoutError, ValueError, ConnectionError):
        other = opened.enter_context(server.accept()[0])
        other.settimeout(_GRACE)
        number = int(_line(other))
        if number in present or not 0 < number < count:
          raise UserError(f"Two processes are number {number} of {count}: give each its own.")
        present[number] = other
    absent = [number for number in range(1, count) if number not in present]
    for other in present.values():
      with contextlib.suppress(OSError):
        other.sendall(json.dumps(absent).encode() + b"\n")
        other.recv(1)  # It closes first, so that the port is free at once.
  return absent


def _follow(host: str, port: int, index: int, end: float) -> list[int] | None:
  """Tells the first process that this one is there; returns who is absent, None if it is."""
  while time.monotonic() < end:
    try:
      with socket.create_connection((host, port), timeout=_RETRY + _GRACE) as first:
        first.settimeout(max(0.0, end - time.monotonic()) + _GRACE)
        first.sendall(f"{index}\n".encode())
        absent: list[int] = json.loads(_line(first))
        return absent
    except (OSError, ValueError):
      time.sleep(_RETRY)
  return None


def _line(of: socket.socket) -> str:
  with of.makefile() as text:
    return text.readline()
