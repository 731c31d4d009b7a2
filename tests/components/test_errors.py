"""What errors say in short."""

import pytest

from paring.errors import ModelError, first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModelError("the model is broken", received="3 bytes", remedy="copy it"),
            "the model is broken",
        ),
        (ValueError("\n no such name\n at line 3"), "ValueError: no such name"),
        # As Keras raises it where a layer can't be stored.
        (NotImplementedError(), "NotImplementedError: "),
    ],
)
def test_an_error_is_told_in_a_line(error: Exception, said: str) -> None:
    assert first_line(error) == said
