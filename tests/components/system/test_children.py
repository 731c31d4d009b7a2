"""Child processes: how they ended, in words."""

import signal

import pytest

from paring.system.children import describe_exit


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGSEGV, "SIGSEGV"),
        # Python has no name for the signals between the first and last real-time one.
        (-(signal.SIGRTMIN + 3), f"signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_an_end_is_described_by_its_code_or_signal(code: int, text: str) -> None:
    assert describe_exit(code) == text
