"""When outputs flow: at the rate of the load, and nothing is awaited for long."""

from __future__ import annotations

from faults.watch import LEAST_PART, OLDEST_S, WINDOW_S, Arrivals


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Devices:
    def __init__(self) -> None:
        self.acknowledged: dict[str, float] = {}
        self.in_order: list[str] = []

    def acknowledge(self, session: str, at: float) -> None:
        self.acknowledged[session] = at
        self.in_order.append(session)


def carried(seconds: float, rate_per_s: int, part: float = 1.0) -> tuple[Clock, Devices, Arrivals]:
    """Return a world in which this part of the load came out at once, for so many seconds."""
    clock, devices = Clock(), Devices()
    arrivals = Arrivals(clock)
    for number in range(round(seconds * rate_per_s)):
        clock.now += 1 / rate_per_s
        if number % 10 < part * 10:
            devices.acknowledge(str(number), clock.now)
            arrivals.note(str(number))
    return clock, devices, arrivals


def test_all_of_the_load_flows_and_too_little_of_it_does_not() -> None:
    _, devices, arrivals = carried(3, 50)
    assert arrivals.flows(devices, 50)
    _, devices, arrivals = carried(3, 50, part=LEAST_PART * 0.5)
    assert not arrivals.flows(devices, 50)


def test_silence_does_not_flow_although_nothing_is_awaited() -> None:
    clock, devices, arrivals = carried(3, 50)
    clock.now += WINDOW_S
    assert arrivals.is_even(devices)
    assert not arrivals.flows(devices, 50)


def test_one_session_that_is_awaited_for_too_long_is_no_flow() -> None:
    clock, devices, arrivals = carried(3, 50)
    devices.acknowledge("late", clock.now - OLDEST_S - 0.1)
    assert not arrivals.flows(devices, 50)
    assert not arrivals.is_even(devices)
    arrivals.note("late")
    assert arrivals.flows(devices, 50)
    assert arrivals.is_even(devices)


def test_a_session_that_comes_twice_arrived_when_it_first_came() -> None:
    clock = Clock()
    arrivals = Arrivals(clock)
    arrivals.note("a")
    clock.now += 5
    arrivals.note("a")
    assert arrivals.seen == {"a": 100.0}
    assert arrivals.out_within(1) == 0
