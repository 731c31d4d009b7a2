import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from paring.errors import ModelError
from paring.models import hdf5
from paring.models.hdf5 import HDF5Contents, inspect_hdf5


def written(file: Path, config: str = "{}") -> Path:
    with h5py.File(file, "w") as stored:
        # Of variable length, which HDF5 keeps in a heap.
        stored.attrs["model_config"] = config
        stored.attrs["keras_version"] = b"2.21.0"
        stored["layer/kernel"] = np.ones((3, 2))
        stored["layer/step"] = 7
    return file


def endless(file: Path) -> Path:
    """An HDF5 file whose heap holds an object without a size, after which comes itself."""
    content = bytearray(written(file).read_bytes())
    heap = content.index(b"GCOL")
    # The object with the number 0 is the space that is free, and the last.
    place = heap + 16
    while int.from_bytes(content[place : place + 2], "little"):
        size = int.from_bytes(content[place + 8 : place + 16], "little")
        place += 16 + -(-size // 8) * 8
    content[place + 8 : place + 16] = bytes(8)
    file.write_bytes(content)
    return file


@pytest.fixture
def two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_CPU_SECONDS", 2)


def test_configuration_and_version_are_read(tmp_path: Path) -> None:
    file = written(tmp_path / "x.h5", '{"a": 1}')
    expected = HDF5Contents('{"a": 1}', "2.21.0", ())
    assert inspect_hdf5(file) == expected
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / f"{method}.keras", "w", method) as archive:
            archive.write(file, "model.weights.h5")
        assert inspect_hdf5(tmp_path / f"{method}.keras", "model.weights.h5") == expected


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    assert inspect_hdf5(written(tmp_path / "x.h5", "1")).config == "1"
    (tmp_path / "x.h5").unlink()
    assert inspect_hdf5(written(tmp_path / "x.h5", "23")).config == "23"


@pytest.mark.usefixtures("two_seconds")
def test_a_file_on_which_the_library_loops_without_end_is_refused(tmp_path: Path) -> None:
    file = endless(tmp_path / "x.h5")
    with pytest.raises(ModelError, match="more than 2 s of processor time"):
        inspect_hdf5(file)
    # It is the library that does, and not what we do with it.
    program = f"import h5py; h5py.File({str(file)!r}).attrs['model_config']"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", program], timeout=5, check=False)


def test_values_that_take_more_memory_than_such_a_file_should_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as stored:
        # Nothing of it is stored but that it is all zeros.
        stored.create_dataset("x", (1, 1 << 40), dtype="f4", chunks=(1, 1 << 20))
    with pytest.raises(ModelError, match="broken"):
        inspect_hdf5(tmp_path / "x.h5")


@pytest.mark.usefixtures("two_seconds")
def test_more_values_than_such_a_file_should_hold_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as stored:
        stored.create_dataset("x", (1 << 40,), dtype="f4", chunks=(1 << 20,))
    with pytest.raises(ModelError, match="more than 2 s of processor time"):
        inspect_hdf5(tmp_path / "x.h5")


def test_a_crash_of_the_library_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "h5py.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with pytest.raises(ModelError) as result:
        inspect_hdf5(written(tmp_path / "x.h5"))
    assert "SIGABRT" in str(result.value)


def test_what_is_no_hdf5_file_is_refused_with_the_librarys_reason(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"no")
    with pytest.raises(ModelError, match="file signature not found"):
        inspect_hdf5(tmp_path / "x.h5")
