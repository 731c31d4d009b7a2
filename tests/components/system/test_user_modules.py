"""Functions that users name as MODULE:FUNCTION."""

import sys
from pathlib import Path

import pytest

from paring.errors import ParameterError
from paring.system.user_modules import import_function


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gets the user's modules, and is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "mine_of_users.py").write_text("def double(x):\n    return 2 * x\n\nNUMBER = 3\n")
    (tmp_path / "failing_of_users.py").write_text("raise SystemError('oops')\n")
    return tmp_path


def test_a_function_of_the_working_directory_is_imported() -> None:
    before = list(sys.path)
    assert import_function("metric", "mine_of_users:double", remedy="write one")(21) == 42
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "what", "received", "remedy"),
    [
        (
            "mine_of_users:doubel",
            "metric: module mine_of_users has no function 'doubel'",
            "mine_of_users.py",
            "did you mean 'double'? known: double; or write one",
        ),
        ("mine_of_users:NUMBER", "no function 'NUMBER'", "mine_of_users.py", "known: double"),
        ("failing_of_users:f", "failing_of_users can't be imported", "SystemError: oops", "give"),
        ("absent_of_users:f", "absent_of_users can't be imported", "No module named", "give"),
    ],
)
def test_what_is_no_function_is_refused(name: str, what: str, received: str, remedy: str) -> None:
    with pytest.raises(ParameterError) as caught:
        import_function("metric", name, remedy="write one")
    assert what in caught.value.what
    assert received in caught.value.received
    assert remedy in caught.value.remedy
