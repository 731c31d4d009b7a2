"""Where the columns of a user's examples lie, in each form that is read.

    FOLDER/Split-train/NAME.npy, FOLDER/Split-eval/NAME.npy    Paring's form
    FOLDER/Split-train/*.gz, FOLDER/Split-eval/*.gz            TFX's Examples
    FOLDER/train*.tfrecord, FOLDER/eval*.tfrecord[.gz]         TFRecords
    FILE.npz with NAME_train, NAME_eval for each NAME          NumPy
    FOLDER/NAME.npy, FOLDER/*.tfrecord, FILE.tfrecord[.gz], FILE.npz with NAME:
                                                               without splits

NAME is an input of the model, the label, or an output that has labels of its
own; `validation`, `val` and `test` are other names for eval, and are taken in
that order where several are there.
"""

import re
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from numpy.typing import NDArray

from paring.errors import ExamplesError
from paring.tf.columns import map_array
from paring.tf.signature import TensorSpec

WHOLE = "all"

_SPLITS = {
    "train": "train",
    "eval": "eval",
    "validation": "eval",
    "val": "eval",
    "test": "eval",
}
_RECORDS = (".tfrecord", ".tfrecord.gz", ".tfrecords", ".tfrecords.gz", ".gz")
_ARRAY = ".npy"


@dataclass(frozen=True)
class Group:
    """The files of one split: arrays, members of an archive, or records.

    Attributes:
        where: What messages call it.
        arrays: A `.npy` file for each column.
        archive: The `.npz` file, and its member for each column.
        records: TFRecord files in order.
        folder: Where their feature_spec.json may be looked for.
    """

    where: str
    arrays: Mapping[str, Path] | None = None
    archive: tuple[Path, Mapping[str, str]] | None = None
    records: tuple[Path, ...] = ()
    folder: Path = Path()


@dataclass(frozen=True)
class Columns:
    """The mapped arrays [count, ...] of one split, and what to call it."""

    where: str
    arrays: Mapping[str, NDArray[Any]]


def column_file(name: str) -> str:
    """The file's name for a column, whatever characters its name has."""
    return quote(name, safe=" ") + _ARRAY


def locate(path: Path) -> dict[str, Group]:
    """The groups of files at `path`: train and eval, or `WHOLE` alone.

    Raises:
        ExamplesError: There is nothing that can be read as examples.
    """
    if not path.exists():
        raise ExamplesError(
            f"{path}: there is nothing at this path",
            remedy="give an .npz file, TFRecords, or a folder with Split-train and Split-eval",
        )
    if path.is_file():
        if path.suffix == ".npz":
            return _archive_groups(path)
        if path.name.endswith(_RECORDS):
            return {WHOLE: Group(str(path), records=(path,), folder=path.parent)}
        raise ExamplesError(
            f"{path}: not a file of examples",
            received=path.suffix or "a name without a suffix",
            remedy="give an .npz, .tfrecord or .tfrecord.gz file",
        )
    folders = {
        one.name.removeprefix("Split-"): one
        for one in sorted(path.iterdir())
        if one.is_dir() and one.name.startswith("Split-")
    }
    if folders:
        return {
            split: _folder_group(folders[name], path)
            for split, name in _choose_splits(folders).items()
        }
    return _flat_groups(path)


def _choose_splits(names: Iterable[str]) -> dict[str, str]:
    """The name that stands for each of train and eval."""
    found = set(names)
    chosen: dict[str, str] = {}
    for name, split in _SPLITS.items():
        if name in found:
            chosen.setdefault(split, name)
    if not chosen:
        raise ExamplesError(
            "none of the splits has a known name",
            received=", ".join(sorted(found)),
            remedy=f"name them train and eval (or {', '.join(list(_SPLITS)[2:])})",
        )
    return chosen


def _folder_group(folder: Path, root: Path) -> Group:
    files = [one for one in sorted(folder.iterdir()) if one.is_file()]
    arrays = {unquote(one.stem): one for one in files if one.suffix == _ARRAY}
    if arrays:
        return Group(str(folder), arrays=arrays)
    records = _record_files(files)
    if records:
        beside = folder if _spec_file(folder).exists() else root
        return Group(str(folder), records=records, folder=beside)
    raise ExamplesError(
        f"{folder}: holds no examples",
        received=f"files {', '.join(one.name for one in files) or 'none'}",
        remedy="put one .npy file for each input there, or TFRecords",
    )


def _flat_groups(folder: Path) -> dict[str, Group]:
    """A folder without `Split-` folders."""
    files = [one for one in sorted(folder.iterdir()) if one.is_file()]
    by_split: dict[str, list[Path]] = {}
    for one in _record_files(files):
        match = re.match(rf"({'|'.join(_SPLITS)})(?![a-z])", one.name)
        by_split.setdefault(match[1] if match else WHOLE, []).append(one)
    if by_split and WHOLE not in by_split:
        return {
            split: Group(f"{folder}/{name}*", records=tuple(by_split[name]), folder=folder)
            for split, name in _choose_splits(by_split).items()
        }
    archives = [one for one in files if one.suffix == ".npz"]
    if len(archives) == 1 and not by_split:
        return _archive_groups(archives[0])
    return {WHOLE: _folder_group(folder, folder)}


def _record_files(files: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(one for one in files if one.name.endswith(_RECORDS))


def _spec_file(folder: Path) -> Path:
    return folder / "feature_spec.json"


def _archive_groups(file: Path) -> dict[str, Group]:
    """The groups in an `.npz` file, split by the suffixes of its keys."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {
                name.removesuffix(_ARRAY): name
                for name in archive.namelist()
                if name.endswith(_ARRAY)
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise _broken_archive(file, error) from error
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
    return {
        split: Group(f"{file}, keys *_{name}", archive=(file, by_split[name]))
        for split, name in _choose_splits(by_split).items()
    }


def _broken_archive(file: Path, error: Exception) -> ExamplesError:
    return ExamplesError(
        f"{file}: not a readable .npz file",
        received=f"{type(error).__name__}: {error}",
        remedy="write it anew with numpy.savez; it may have been cut off",
    )


def read_columns(
    group: Group,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    scratch: Path,
) -> Columns:
    """Map the columns of `group`; what must be unpacked goes to `scratch`.

    Of TFRecords, whose records name their features, only the model's inputs
    and the labels are read.

    Raises:
        ExamplesError: Something can't be read.
    """
    if group.records:
        # Imported here since the other forms need no TensorFlow.
        from paring.tf.tfrecords import read_records

        spec = _spec_file(group.folder)
        scratch.mkdir(parents=True, exist_ok=True)
        return Columns(group.where, read_records(group.records, spec, inputs, labels, scratch))
    if group.archive is not None:
        file, members = group.archive
        unpacked = _unpack(file, members.values(), scratch)
        arrays = {name: unpacked[member] for name, member in members.items()}
    else:
        arrays = dict(group.arrays or {})
    mapped = {name: map_array(file, f"{group.where}, {name}") for name, file in arrays.items()}
    return Columns(group.where, mapped)


def _unpack(file: Path, members: Collection[str], scratch: Path) -> dict[str, Path]:
    """Copy members out of the archive, which can't be mapped in place."""
    scratch.mkdir(parents=True, exist_ok=True)
    unpacked: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for number, member in enumerate(members):
                # A number, since a member's own name may lead anywhere.
                unpacked[member] = scratch / f"member-{number}.npy"
                with (
                    archive.open(member) as source,
                    unpacked[member].open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise _broken_archive(file, error) from error
    return unpacked
