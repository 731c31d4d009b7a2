"""Errors in one line."""

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
        (
            RuntimeError(
                "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'false' failed at"
                " src/a.cpp:1:\nFrontEnd API failed with OpConversionFailure:\n-- No conversion"
                " rule found for operations: com.x.Inverse, com.x.Gelu\n\n"
            ),
            "there is no conversion for the operators com.x.Inverse, com.x.Gelu",
        ),
        (
            TypeError('op: "Assert"\ninput: "All"\nattr {\n  key: "T"\n}\nno such layer here'),
            "TypeError: no such layer here",
        ),
        # Cut between words.
        (ValueError("word " * 100), f"ValueError: {'word ' * 59}..."),
        # As Keras raises it where a layer can't be stored.
        (NotImplementedError(), "NotImplementedError: "),
    ],
)
def test_an_error_is_told_in_a_line(error: Exception, said: str) -> None:
    assert first_line(error) == said
