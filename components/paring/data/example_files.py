"""Locations of the columns of a user's examples, in each form that can be read.

    FOLDER/Split-train/NAME.npy, FOLDER/Split-eval/NAME.npy    Paring's form
    FOLDER/Split-train/sample_weights/NAME.npy, ...            its sample weights
    FOLDER/Split-train/*.gz, FOLDER/Split-eval/*.gz            TFX's Examples
    FOLDER/*train*.tfrecord, FOLDER/*eval*.tfrecord[.gz]       TFRecords
    FILE.npz with NAME_train, NAME_eval for each NAME          NumPy
    FOLDER/*train*.csv, FOLDER/*eval*.csv[.gz], *.parquet      tables, in Split- folders too
    FOLDER/NAME.npy, FOLDER/*.tfrecord, FILE.tfrecord[.gz], FILE.csv, FILE.parquet,
    FILE.npz with NAME:                                        without splits

NAME is an input of the model, the label, or an output that has labels of its
own; `validation`, `val` and `test` are other names for eval. Where several of these are
there, folders and TFRecords are taken in that order, with a warning, and an `.npz` file
is refused. A file may be a shard, *.tfrecord-00000-of-00002.
"""

import logging
import lzma
import re
import shutil
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from paring.data.columns import map_array
from paring.data.tables import column_values, is_table, read_table, shaped
from paring.data.weights import FOLDER as WEIGHTS_FOLDER
from paring.errors import ExamplesError
from paring.models.signature import TensorSpec
from paring.system.archives import describe_excess
from paring.system.trees import tree_files

_log = logging.getLogger(__name__)

WHOLE = "all"

_SPLITS = {
    "train": "train",
    "eval": "eval",
    "validation": "eval",
    "val": "eval",
    "test": "eval",
}
# Also one shard of several, as TFX and TensorFlow Datasets name them.
_RECORDS = re.compile(r"(\.tfrecords?|\.gz|-\d+-of-\d+)$")
_ARRAY = ".npy"
# Besides what is broken: encrypted members, and ways to compress that this Python lacks.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Group:
    """The files of one split: arrays, members of an archive, records, or tables.

    Attributes:
        where: What messages call it.
        arrays: A `.npy` file for each column.
        archive: The `.npz` file, and its member for each column.
        records: TFRecord files in order.
        folder: Where their feature_spec.json may be looked for.
        weights: Column and `.npy` file of sample weights that Paring's own form states.
        tables: CSV or Parquet files in order.
    """

    where: str
    arrays: Mapping[str, Path] | None = None
    archive: tuple[Path, Mapping[str, str]] | None = None
    records: tuple[Path, ...] = ()
    folder: Path = Path()
    weights: tuple[str, Path] | None = None
    tables: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Columns:
    """The mapped arrays [count, ...] of one split, and what to call it.

    Attributes:
        where: What messages call it.
        arrays: The columns.
        unread: Columns that nothing takes, and that were not read.
        weights: The column of sample weights that Paring's own form states, and its array.
    """

    where: str
    arrays: Mapping[str, NDArray[Any]]
    unread: tuple[str, ...] = ()
    weights: tuple[str, NDArray[Any]] | None = None


def column_file(name: str) -> str:
    """Return the file's name for a column, whatever characters its name has."""
    return quote(name, safe=" ") + _ARRAY


def locate(path: Path) -> dict[str, Group]:
    """Return the groups of files at `path`: train and eval, or `WHOLE` alone.

    Raises:
        ExamplesError: There is nothing that can be read as examples.
    """
    if not path.exists():
        raise ExamplesError(
            f"{path}: path does not exist",
            remedy="give an .npz file, TFRecords, or a folder with Split-train and Split-eval",
        )
    if path.is_file():
        if path.suffix == ".npz":
            return _archive_groups(path)
        if is_table(path):
            return {WHOLE: Group(str(path), tables=(path,))}
        if _RECORDS.search(path.name):
            return {WHOLE: Group(str(path), records=(path,), folder=path.parent)}
        raise ExamplesError(
            f"{path}: not a file of examples",
            received=path.suffix or "a name without a suffix",
            remedy="give an .npz, .csv, .parquet, .tfrecord or .tfrecord.gz file, or a shard of"
            " one, such as train.tfrecord-00000-of-00002",
        )
    # Refuses links that lead out of it.
    tree_files(path, ExamplesError)
    folders = {
        item.name.removeprefix("Split-"): item
        for item in sorted(path.iterdir())
        if item.is_dir() and item.name.startswith("Split-")
    }
    if folders:
        return {
            split: _folder_group(folders[name], path)
            for split, name in _choose_splits(folders).items()
        }
    return _flat_groups(path)


def _choose_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the name that stands for each of train and eval."""
    result = set(names)
    chosen: dict[str, str] = {}
    for name, split in _SPLITS.items():
        if name in result and chosen.setdefault(split, name) != name:
            _log.warning("%s is the %s split, and %s is left out", chosen[split], split, name)
    if not chosen:
        raise ExamplesError(
            "none of the splits has a known name",
            received=", ".join(sorted(result)),
            remedy=f"name them train and eval (or {', '.join(list(_SPLITS)[2:])})",
        )
    return chosen


def _folder_group(folder: Path, root: Path) -> Group:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    arrays: dict[str, Path] = {}
    for file in files:
        if file.suffix == _ARRAY and arrays.setdefault(unquote(file.stem), file) != file:
            raise ExamplesError(
                f"{folder}: two files hold the column {unquote(file.stem)!r}",
                received=f"{arrays[unquote(file.stem)].name} and {file.name}",
                remedy="keep one of them",
            )
    if arrays:
        return Group(str(folder), arrays=arrays, weights=_stored_weights(folder))
    records = _record_files(files)
    if records:
        beside = folder if _spec_file(folder).exists() else root
        return Group(str(folder), records=records, folder=beside)
    tables = tuple(file for file in files if is_table(file))
    if tables:
        return Group(str(folder), tables=tables)
    raise ExamplesError(
        f"{folder}: holds no examples",
        received=f"files {', '.join(file.name for file in files) or 'none'}",
        remedy="put one .npy file for each input there, or TFRecords",
    )


def _stored_weights(folder: Path) -> tuple[str, Path] | None:
    """Find the sample weights of a split in Paring's own form.

    Raises:
        ExamplesError: There are several columns.
    """
    files = sorted((folder / WEIGHTS_FOLDER).glob(f"*{_ARRAY}"))
    if len(files) > 1:
        raise ExamplesError(
            f"{folder / WEIGHTS_FOLDER}: holds several columns of weights",
            received=", ".join(file.name for file in files),
            remedy="keep one of them",
        )
    return (unquote(files[0].stem), files[0]) if files else None


def _flat_groups(folder: Path) -> dict[str, Group]:
    """Return a folder without `Split-` folders."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    by_split: dict[str, list[Path]] = {}
    records = _record_files(files)
    for file in records or tuple(file for file in files if is_table(file)):
        match = re.search(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])", file.name)
        by_split.setdefault(match[1] if match else WHOLE, []).append(file)
    if by_split and WHOLE not in by_split:
        return {
            split: Group(
                f"{folder}/{name}*",
                records=tuple(by_split[name]) if records else (),
                folder=folder,
                tables=() if records else tuple(by_split[name]),
            )
            for split, name in _choose_splits(by_split).items()
        }
    archives = [file for file in files if file.suffix == ".npz"]
    if len(archives) == 1 and not by_split:
        return _archive_groups(archives[0])
    return {WHOLE: _folder_group(folder, folder)}


def _record_files(files: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(file for file in files if _RECORDS.search(file.name) and not is_table(file))


def _spec_file(folder: Path) -> Path:
    return folder / "feature_spec.json"


def _archive_groups(file: Path) -> dict[str, Group]:
    """Return the groups in an `.npz` file, split by the suffixes of its keys."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith(_ARRAY)]
    except _ARCHIVE_ERRORS as error:
        raise _broken_archive(file, error) from error
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ExamplesError(
            f"{file}: holds arrays of the same name, of which only the last would be read",
            received=", ".join(f"{name} {names.count(name)} times" for name in twice),
            remedy="write it with numpy.savez, with one array for each name",
        )
    members = {name.removesuffix(_ARRAY): name for name in names}
    if not members:
        raise ExamplesError(f"{file}: holds no arrays", remedy="write it with numpy.savez")
    by_split: dict[str, dict[str, str]] = {}
    for key, member in members.items():
        name, _, suffix = key.rpartition("_")
        if name and suffix in _SPLITS:
            by_split.setdefault(suffix, {})[name] = member
        else:
            by_split.setdefault(WHOLE, {})[key] = member
    if WHOLE in by_split:
        if len(by_split) == 1:
            return {WHOLE: Group(str(file), archive=(file, members))}
        raise ExamplesError(
            f"{file}: some keys name a split and some do not",
            received=", ".join(sorted(members)),
            remedy="use keys such as x_train, y_train, x_eval, y_eval, or x and y alone",
        )
    held_out = [suffix for suffix in _SPLITS if suffix in by_split and suffix != "train"]
    if len(held_out) > 1:
        raise ExamplesError(
            f"{file}: several splits stand for eval, and one of them would be left out",
            received=", ".join(f"keys *_{suffix}" for suffix in held_out),
            remedy=f"keep the one to judge by, such as the keys *_{held_out[0]}",
        )
    return {
        split: Group(f"{file}, keys *_{name}", archive=(file, by_split[name]))
        for split, name in _choose_splits(by_split).items()
    }


def _broken_archive(file: Path, error: Exception) -> ExamplesError:
    return ExamplesError(
        f"{file}: not a readable .npz file",
        received=f"{type(error).__name__}: {error}",
        remedy="write it again with numpy.savez; it may have been cut off",
    )


def read_columns(
    group: Group,
    *,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    scratch: Path,
    weights: str = "",
) -> Columns:
    """Map the columns of `group`; what must be unpacked goes to `scratch`.

    Only the model's inputs, the labels and the column `weights` are read: what else is
    there, such as the names of the classes, need not have a row for each example.

    Raises:
        ExamplesError: Something can't be read.
    """
    if group.records:
        # Imported here since the other forms need no TensorFlow.
        from paring.data.tfrecords import read_records

        spec = _spec_file(group.folder)
        scratch.mkdir(parents=True, exist_ok=True)
        arrays, unread = read_records(
            group.records, spec, inputs=inputs, labels=labels, scratch=scratch, weights=weights
        )
        return Columns(group.where, arrays, unread)
    known = {*inputs, *labels, *(output.name for output in labels.values()), "x", "y", weights}
    if group.tables:
        return _table_columns(group, inputs=inputs, known=known, scratch=scratch)
    if group.archive is not None:
        file, members = group.archive
        unread = tuple(name for name in members if name not in known)
        taken = {name: member for name, member in members.items() if name in known}
        unpacked = _unpack(file, taken.values(), scratch)
        files = {name: unpacked[member] for name, member in taken.items()}
    else:
        arrays_by_name = group.arrays or {}
        unread = tuple(name for name in arrays_by_name if name not in known)
        files = {name: item for name, item in arrays_by_name.items() if name in known}
    mapped = {name: map_array(file, f"{group.where}, {name}") for name, file in files.items()}
    stored = None
    if group.weights is not None:
        column, file = group.weights
        stored = column, map_array(file, f"{group.where}, {column}")
    return Columns(group.where, mapped, unread, stored)


def _table_columns(
    group: Group, *, inputs: Mapping[str, TensorSpec], known: Collection[str], scratch: Path
) -> Columns:
    """Write the columns of tables to files, so that they are mapped as others are."""
    table = read_table(group.tables)
    scratch.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    for number, name in enumerate(name for name in table.column_names if name in known):
        where = f"{group.where}, {name}"
        values = column_values(table, name, group.where)
        if values.dtype.kind == "O":
            raise ExamplesError(
                f"{where}: holds text, and the model takes numbers",
                remedy="give the numbers that the text stands for",
            )
        file = scratch / f"column-{number}.npy"
        np.save(file, shaped(values, inputs[name].shape if name in inputs else None))
        arrays[name] = map_array(file, where)
    unread = tuple(name for name in table.column_names if name not in known)
    return Columns(group.where, arrays, unread)


def _unpack(file: Path, members: Collection[str], scratch: Path) -> dict[str, Path]:
    """Copy members out of the archive, which can't be mapped in place."""
    scratch.mkdir(parents=True, exist_ok=True)
    unpacked: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            _check_size(file, archive, members, scratch)
            for number, member in enumerate(members):
                # A number, since a member's own name may lead anywhere.
                unpacked[member] = scratch / f"member-{number}.npy"
                with (
                    archive.open(member) as source,
                    unpacked[member].open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
    except _ARCHIVE_ERRORS as error:
        raise _broken_archive(file, error) from error
    return unpacked


def _check_size(
    file: Path, archive: zipfile.ZipFile, members: Collection[str], scratch: Path
) -> None:
    """Refuse an archive that would fill the disk, or that can't hold what it says."""
    excess = describe_excess(file, map(archive.getinfo, members), scratch)
    if excess is not None:
        raise ExamplesError(
            f"{file}: its arrays take more than can be unpacked",
            received=excess,
            remedy="write it again with numpy.savez, or free disk space for temporary files",
        )
