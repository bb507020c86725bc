"""Which precision is faster is measured."""

import time

from nbflows import (
    hardware,
)


def test_the_precision_is_measured_not_guessed(monkeypatch):
    assert hardware.faster_precision("cpu") in ("bf16-mixed", "32-true")
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert hardware.faster_precision("cpu") == "32-true"
