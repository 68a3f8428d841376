"""Ctrl-C at the right moment."""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

_LONGEST = 120
"""Seconds until it is pressed in any case, so that a test fails rather than hangs."""


@contextmanager
def ctrl_c_when(ready: Callable[[], object]) -> Generator[None]:
    """Expects what is inside to run until `ready`, when Ctrl-C is pressed, and to raise `KeyboardInterrupt` then."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press() -> None:
        end = time.monotonic() + _LONGEST
        while not ready() and time.monotonic() < end:
            time.sleep(0.02)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
