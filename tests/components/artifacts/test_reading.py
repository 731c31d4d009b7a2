"""JSON files of artifacts, read whole or refused by their name."""

from pathlib import Path

import pytest

from paring.artifacts.reading import content_of, read_object
from paring.errors import ArtifactTypeError


def test_an_object_is_returned_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"x": 1, "y": [2]}')
    assert read_object(file, "x") == {"x": 1, "y": [2]}


@pytest.mark.parametrize(
    ("text", "received"),
    [
        (None, "FileNotFoundError"),
        ('{"x": ', "JSONDecodeError"),
        ('{"y": 2}', "KeyError: 'x'"),
        ("[1, 2]", "TypeError"),
        ("7", "TypeError"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_object_with_the_keys_is_refused(
    text: str | None, received: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArtifactTypeError, match=r"a\.json can't be read") as caught:
        read_object(file, "x")
    assert received in caught.value.received
    assert "re-run the step" in caught.value.remedy


def test_a_value_that_the_reader_does_not_expect_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"nodes": 3}]')
    with pytest.raises(ArtifactTypeError, match=r"a\.json can't be read"), content_of(file) as rows:
        sorted(rows, key=lambda row: len(row["nodes"]))
