"""Processes are counted before they begin."""

import threading

import pytest

from several import free_port
from specialization import roll_call
from specialization.errors import UserError


def called(count, present, timeout):
  """Returns what each of the processes that are there is told, "" if nothing is amiss."""
  port, told = free_port(), {}

  def come(place, number):
    try:
      roll_call.call(f"localhost:{port}", count, number, timeout)
      told[place] = ""
    except UserError as error:
      told[place] = str(error)

  threads = [
    threading.Thread(target=come, args=(place, number)) for place, number in enumerate(present)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return [told[place] for place in range(len(present))]


def test_all_are_there():
  assert called(4, [3, 1, 0, 2], timeout=20.0) == [""] * 4


def test_the_absent_are_named_to_all():
  sentence = "2 of 5 processes did not come within 1 s: process 1, 4. See"
  assert all(said.startswith(sentence) for said in called(5, [0, 2, 3], timeout=1.0))


def test_the_first_one_is_absent():
  (said,) = called(2, [1], timeout=1.0)
  assert said.startswith("Process 0 did not answer at localhost:")


def test_one_with_a_number_that_is_too_high():
  said = called(2, [0, 5], timeout=20.0)
  assert all(text.startswith("There is a process 5, but 2 in all") for text in said)


def test_two_with_one_number():
  said = called(4, [0, 1, 1, 2], timeout=5.0)
  assert all(text.startswith("Two processes are number 1 of 4") for text in said[:3])


def test_the_port_is_free_afterwards():
  port = free_port()
  for _ in range(3):
    thread = threading.Thread(target=roll_call.call, args=(f"localhost:{port}", 2, 1, 5.0))
    thread.start()
    roll_call.call(f"localhost:{port}", 2, 0, 5.0)
    thread.join()


@pytest.mark.parametrize("address", ["host", "host:", ":1", "host:a"])
def test_an_address_that_is_none(address):
  with pytest.raises(UserError, match="is no address"):
    roll_call.call(address, 2, 0, 1.0)
