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
        (
            ValueError(
                'Exception encountered when calling layer "outer" (type Functional).\n\n'
                'Exception encountered when calling layer "conv" (type Conv2D).\n\n'
                "\x1b[1mthe depth is wrong\x1b[0m\n\nCall arguments received by layer"
            ),
            'ValueError: layer "conv" (type Conv2D): the depth is wrong',
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
        (
            RuntimeError("Detected at node 'a'\nGraph execution error:\n\nno kernel\n\t [[a]]"),
            "RuntimeError: no kernel",
        ),
        # Cut between words.
        (ValueError("word " * 100), f"ValueError: {'word ' * 59}..."),
        # As Keras raises it where a layer can't be stored.
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_an_error_is_told_in_a_line(error: Exception, said: str) -> None:
    assert first_line(error) == said
