"""Reading of HDF5 files in a child process with limits, before this process opens them.

The HDF5 library trusts the sizes and addresses in a file: on a broken one it may loop
without end, take all memory or crash, and no signal handler of Python runs meanwhile. So
a child visits all that the file holds first. What it has read whole is safe to load.
"""

import io
import json
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from paring.errors import ModelError, first_line
from paring.system.children import describe_exit, module_command, module_environment

_CPU_SECONDS = 30
_BYTES_PER_CPU_SECOND = 20 << 20
# Of the time on the clock, for machines that do much else.
_SECONDS_PER_CPU_SECOND = 10
_MEMORY_BYTES = 4 << 30
_MEMORY_PER_BYTE = 4
_SLAB_BYTES = 64 << 20


@dataclass(frozen=True)
class HDF5Contents:
    """Configuration, version and foreign weights that an HDF5 file of Keras states.

    Attributes:
        config: The model's configuration as JSON text; None where it holds weights alone.
        version: The version of Keras that wrote it; empty where it is not recorded.
        foreign: Descriptions of the weights that are read from other files.
    """

    config: str | None
    version: str
    foreign: tuple[str, ...]


def inspect_hdf5(file: Path, member: str | None = None) -> HDF5Contents:
    """Read all of an HDF5 file in a child process, and return what it says of itself.

    The result is kept until the file changes.

    Args:
        file: An HDF5 file, or a zip archive that holds one.
        member: The name of the HDF5 file in the archive.

    Raises:
        ModelError: It is broken, or reading it takes more time or memory than a file of its
            size should.
    """
    status = file.stat()
    return _inspect(file.absolute(), member, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=16)
def _inspect(file: Path, member: str | None, stamp: tuple[int, ...]) -> HDF5Contents:
    size = stamp[1]
    cpu_seconds = _CPU_SECONDS + size // _BYTES_PER_CPU_SECOND
    memory_bytes = _MEMORY_BYTES + _MEMORY_PER_BYTE * size
    arguments = [str(file), member or "", str(cpu_seconds), str(memory_bytes)]
    try:
        child = subprocess.run(
            [*module_command("paring.models.hdf5"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=module_environment() | {"OPENBLAS_NUM_THREADS": "1"},
            timeout=cpu_seconds * _SECONDS_PER_CPU_SECOND,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise broken_file(file, f"reading it takes longer than {error.timeout:g} s") from None
    if child.returncode == -signal.SIGXCPU:
        raise broken_file(file, f"reading it takes more than {cpu_seconds} s of processor time")
    if child.returncode < 0:
        raise broken_file(file, f"reading it crashes ({describe_exit(child.returncode)})")
    if child.returncode > 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        raise broken_file(file, lines[-1] if lines else f"exit code {child.returncode}")
    content = json.loads(child.stdout)
    if "error" in content:
        raise broken_file(file, content["error"])
    return HDF5Contents(content["config"], content["version"], tuple(content["foreign"]))


def broken_file(file: Path, received: str) -> ModelError:
    """Return the error to raise of a Keras file that can't be read."""
    return ModelError(
        f"{file} can't be read as a Keras model: it is broken, or was cut off",
        received=received,
        remedy="save or copy the model again",
    )


def _main(file: str, member: str, cpu_seconds: str, memory_bytes: str) -> None:
    _limit(resource.RLIMIT_CPU, int(cpu_seconds))
    _limit(resource.RLIMIT_AS, int(memory_bytes))
    _limit(resource.RLIMIT_CORE, 0)
    try:
        with _opened(Path(file), member) as stored:
            content: dict[str, Any] = asdict(_read(stored))
    except Exception as error:
        # h5py, zipfile and zlib raise some twenty classes for broken bytes.
        content = {"error": first_line(error)}
    json.dump(content, sys.stdout)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, hard))


@contextmanager
def _opened(file: Path, member: str) -> Iterator[Any]:
    import h5py

    if not member:
        with h5py.File(file, "r") as stored:
            yield stored
        return
    with (
        zipfile.ZipFile(file) as archive,
        archive.open(member) as stream,
        h5py.File(_seekable(stream), "r") as stored,
    ):
        yield stored


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    """Return the stream, in memory where going back in it would mean to unpack it again."""
    compressed = getattr(stream, "_compress_type", zipfile.ZIP_STORED) != zipfile.ZIP_STORED
    return io.BytesIO(stream.read()) if compressed else stream


def _read(stored: Any) -> HDF5Contents:
    foreign = tuple(_visit(stored))
    config, version = (stored.attrs.get(name) for name in ("model_config", "keras_version"))
    if not isinstance(config, (str, bytes, type(None))):
        raise TypeError(f"its configuration is {type(config).__name__}, not text")
    if isinstance(config, bytes):
        config = config.decode()
    if isinstance(version, bytes):
        version = version.decode(errors="replace")
    return HDF5Contents(config, "" if version is None else str(version), foreign)


def _visit(stored: Any) -> Iterator[str]:
    """Read all that it holds; yields what is read from other files."""
    import h5py

    pending, seen = [stored], {stored.id}
    while pending:
        group = pending.pop()
        _read_attributes(group)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f"the file {link.filename}, to which weight {name} is linked"
            if not isinstance(link, h5py.HardLink):
                continue
            item = group[name]
            if item.id in seen:
                continue
            seen.add(item.id)
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset):
                _read_attributes(item)
                if item.external or item.is_virtual:
                    yield f"another file, which holds weight {item.name}"
                else:
                    _read_values(item)


def _read_attributes(item: Any) -> None:
    for name in item.attrs:
        item.attrs[name]


def _read_values(dataset: Any) -> None:
    if not dataset.shape:
        dataset[()]
        return
    rows = max(1, _SLAB_BYTES // max(1, dataset.nbytes // max(1, dataset.shape[0])))
    for start in range(0, dataset.shape[0], rows):
        dataset[start : start + rows]


if __name__ == "__main__":
    _main(*sys.argv[1:])
