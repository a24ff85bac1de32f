"""Other programs' share of the device, and a paged optimizer's part in RAM: bookkeeping, on faked drivers."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from qlora_studio.memory import devices, others
from qlora_studio.memory.devices import CardTaken
from qlora_studio.memory.others import OthersInRam, OthersOnCard, bytes_in_ram
from qlora_studio.memory.parts import never_estimated
from tests.memory.test_devices import NVMLError, fake_nvml

GIB = 2**30
CONTEXT = never_estimated("cuda")


def unasked():
    raise AssertionError("torch's counters take longer than all the rest")


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


@pytest.fixture
def taken(monkeypatch):
    """What the driver tells at each look."""

    def use(*looks):
        answers = iter(looks)
        monkeypatch.setattr(others.CardTaken, "look", lambda self: next(answers))
        return OthersOnCard()

    return use


def test_where_the_driver_lists_this_process_the_others_are_the_rest_of_the_list(taken):
    watched = taken((9 * GIB, {os.getpid(): 5 * GIB, 77: 3 * GIB, 78: 1 * GIB}))
    assert watched.look(unasked) == 4 * GIB


def test_in_a_container_the_others_are_what_was_taken_beside_us_since_the_first_look(taken):
    """There the list has our process under a number that we don't know."""
    host = {4_000_001: 5 * GIB}
    watched = taken((5 * GIB, host), (9 * GIB, host), (12 * GIB, host), (6 * GIB, host))
    held = iter((4 * GIB, 8 * GIB, 8 * GIB, 8 * GIB))
    assert [watched.look(lambda: next(held)) for _ in range(4)] == [0, 0, 3 * GIB, 0]


def test_a_driver_that_tells_nothing_is_no_zero(taken):
    assert taken(None).look(unasked) is None


def test_on_a_processor_the_others_are_what_is_neither_free_nor_ours():
    found = OthersInRam().look(unasked)
    ram = devices.ram_reading()
    assert 0 <= found <= ram.total_bytes


@pytest.mark.parametrize(
    ("paged", "reserved", "taken_by_others", "total", "in_ram"),
    [
        (2, 10, 0, 80, 0),  # room for all
        (2, 77, 0, 80, 0),
        (4, 77, 0, 80, 1),  # a GiB has no room
        (4, 70, 8, 80, 2),  # another program drives it out
        (4, 79, 0, 80, 3),
        (4, 60, 60, 80, 4),  # never more than there is
        (0, 80, 0, 80, 0),
    ],
)
def test_of_a_paged_state_is_in_ram_what_has_no_room_on_the_card(
    paged, reserved, taken_by_others, total, in_ram
):
    found = bytes_in_ram(paged * GIB, reserved * GIB - CONTEXT, taken_by_others * GIB, total * GIB)
    assert found == in_ram * GIB


@pytest.fixture
def nvml(monkeypatch):
    """A driver with one or two answers of our own."""

    def use(**changes):
        monkeypatch.setattr(devices, "_started", [fake_nvml(**changes)])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
        return CardTaken()

    return use


def test_the_short_look_lists_each_process(nvml):
    assert nvml().look() == (30, {1: 1000, 2: 0})


def test_the_driver_lists_processes_again_once_another_number_of_bytes_is_in_use(nvml):
    used, listed = iter((30, 30, 50, 50)), iter(([process(1, 10)], [process(1, 10), process(7, 20)]))
    card = nvml(
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(used=next(used)),
        nvmlDeviceGetComputeRunningProcesses=lambda card: next(listed),
    )
    looks = [card.look() for _ in range(4)]
    assert looks == [(30, {1: 10}), (30, {1: 10}), (50, {1: 10, 7: 20}), (50, {1: 10, 7: 20})]


def test_a_card_that_comes_back_is_looked_up_again(nvml):
    cards, answers = iter(("one", "another")), iter((30, None, 30))

    def of_card(card):
        found = next(answers)
        if found is None:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(used=found, card=card)

    asked = []
    card = nvml(
        nvmlDeviceGetHandleByIndex=lambda index: asked.append(index) or next(cards),
        nvmlDeviceGetMemoryInfo=of_card,
        nvmlDeviceGetComputeRunningProcesses=lambda card: [process(1, 5 if card == "one" else 6)],
    )
    assert [card.look() for _ in range(3)] == [(30, {1: 5}), None, (30, {1: 6})]
    assert asked == [0, 0]


@pytest.mark.parametrize("started", [[None], []], ids=["no driver", "no library"])
def test_without_a_driver_there_is_no_short_look(monkeypatch, started):
    monkeypatch.setattr(devices, "_started", list(started))
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert CardTaken().look() is None
    assert OthersOnCard().look(unasked) is None
