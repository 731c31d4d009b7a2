"""The names that `import paring` gives."""

import subprocess
import sys

import pytest

import paring


@pytest.mark.parametrize("name", paring.__all__)
def test_each_public_name_is_there_and_is_the_one_of_its_module(name: str) -> None:
    result = getattr(paring, name)
    assert name in dir(paring)
    if isinstance(result, type):
        assert result.__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'paring' has no attribute 'optimise'"):
        _ = paring.optimise


def test_the_package_alone_imports_nothing_else() -> None:
    code = "import paring, sys; print([n for n in sys.modules if n.startswith('paring')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['paring']"
