"""What tests of the flows on fakes share."""

from __future__ import annotations

import pytest

from openmsistream.pipeline import beside

SLOWEST_SECONDS = 600.0


@pytest.fixture(autouse=True)
def time_is_only_the_tests_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A machine that stands still for a second changes nothing.

    Work that takes long by the real clock has the consumer polled meanwhile, which moves the clock of the test.
    """
    monkeypatch.setattr(beside, "ALONE_SECONDS", SLOWEST_SECONDS)
