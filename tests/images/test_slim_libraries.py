"""Removal from packages of an image of the parts that no step reads."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.images.conftest import ROOT

SCRIPT = ROOT / "components" / "slim-libraries.py"

# A library that is published with its symbol table.
WHOLE = "zstandard.backend_c"


def _library() -> Path:
    spec = importlib.util.find_spec(WHOLE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Folder site-packages with a package of each kind of content."""
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    files = {
        "package/__init__.py": "",
        "package/data/include.txt": "kept",
        "package/include/package.h": "#pragma once",
        "package/libpackage.a": "!<arch>",
        "package/sub/tests/test_sub.py": "",
        "package/testing/helper.py": "",
        "package-1.dist-info/RECORD": "package/include/package.h,,",
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    shutil.copy(_library(), folder / "package")
    return folder


def _slim(folder: Path) -> str:
    command = [sys.executable, SCRIPT, folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_headers_tests_and_static_libraries_go_and_the_rest_stays(packages: Path) -> None:
    said = _slim(packages.parents[1])
    left = {str(file.relative_to(packages)) for file in packages.rglob("*") if file.is_file()}
    assert left == {
        "package/__init__.py",
        "package/data/include.txt",
        "package/testing/helper.py",
        "package-1.dist-info/RECORD",
        f"package/{_library().name}",
    }
    kinds = [line.rpartition(" MB of ")[2] for line in said.splitlines()]
    assert kinds == ["headers", "static libraries", "symbol tables", "tests"]


def test_a_library_without_its_symbol_table_is_smaller_and_loads(packages: Path) -> None:
    _slim(packages.parents[1])
    library = packages / "package" / _library().name
    assert library.stat().st_size < _library().stat().st_size - (64 << 10)
    # The function by which Python loads it is found in what is left.
    assert ctypes.CDLL(str(library))[f"PyInit_{WHOLE.rpartition('.')[2]}"]
    content = library.read_bytes()
    _slim(packages.parents[1])
    assert library.read_bytes() == content


def test_a_program_with_an_archive_behind_it_stays_whole(packages: Path) -> None:
    program = packages / "package" / "program"
    program.write_bytes(_library().read_bytes() + b"PK archive")
    cut = packages / "package" / "cut"
    cut.write_bytes(_library().read_bytes()[:100])
    contents = program.read_bytes(), cut.read_bytes()
    _slim(packages.parents[1])
    assert (program.read_bytes(), cut.read_bytes()) == contents


def test_each_target_of_the_dockerfile_slims_in_the_layer_that_installs() -> None:
    text = (ROOT / "components" / "Dockerfile").read_text()
    stages = text.split("\nFROM runtime AS ")[1:]
    assert len(stages) == 4
    for stage in stages:
        (installing,) = (part for part in stage.split("\nRUN ") if "uv pip sync" in part)
        assert "slim-libraries.py /opt/paring/lib" in installing.split("\nCOPY ")[0]
