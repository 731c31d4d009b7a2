"""CSV and Parquet files of examples, one a row."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import ExamplesError, nearest

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""How the names of the files end."""


def is_table(file: Path) -> bool:
    """Return whether the name is that of a CSV or Parquet file."""
    return file.name.lower().endswith(TABLE_SUFFIXES)


def read_table(files: Sequence[Path], text: Iterable[str] = ()) -> Any:
    """Read files into memory, one after another.

    Args:
        files: CSV with a line of names, or Parquet.
        text: Columns that are text whatever they look like, such as codes of digits.

    Returns:
        A pyarrow.Table. An empty field of CSV is null.

    Raises:
        ExamplesError: A file can't be read, or has other columns than the first one.
    """
    import pyarrow

    tables = [_read(file, list(text)) for file in files]
    for file, table in zip(files, tables, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            odd = sorted(set(table.column_names) ^ set(tables[0].column_names))
            raise ExamplesError(
                f"{file}: it has other columns than {files[0].name}",
                received=", ".join(odd),
                remedy="give files of the same columns",
            )
    return pyarrow.concat_tables(tables, promote_options="permissive")


def _read(file: Path, text: Sequence[str]) -> Any:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        if file.name.lower().endswith(".parquet"):
            table = parquet.read_table(file)
        else:
            options = csv.ConvertOptions(
                column_types=dict.fromkeys(text, pyarrow.string()),
                null_values=[""],
                strings_can_be_null=True,
            )
            table = csv.read_csv(file, convert_options=options)
    except (pyarrow.ArrowException, OSError) as error:
        raise ExamplesError(
            f"{file}: not a readable table",
            received=str(error).splitlines()[0],
            remedy="write CSV with a line of names, comma-separated and in UTF-8, or Parquet",
        ) from error
    twice = {name for name in table.column_names if table.column_names.count(name) > 1}
    if twice:
        raise ExamplesError(
            f"{file}: holds columns of the same name",
            received=", ".join(sorted(twice)),
            remedy="rename one of them",
        )
    return table


def column_values(table: Any, name: str, where: str) -> NDArray[Any]:
    """Return a column as an array [count], or [count, values] of lists; text as objects.

    Raises:
        ExamplesError: It is missing, has empty fields, or holds neither numbers nor text.
    """
    import pyarrow

    if name not in table.column_names:
        raise ExamplesError(
            f"{where}: there is no column {name!r}",
            received=f"columns {', '.join(table.column_names)}",
            remedy=nearest(name, table.column_names),
        )
    column = table.column(name)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ExamplesError(
            f"{where}: column {name!r} has no value in row {row} (counted from 0)",
            remedy="fill or remove those rows",
        )
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array([item.encode() for item in column.to_pylist()], object)
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return np.array(column.to_pylist(), object)
    try:
        if pyarrow.types.is_nested(kind):
            values = np.array(column.to_pylist())
        else:
            values = column.to_numpy()
    except (ValueError, pyarrow.ArrowException) as error:
        raise _no_values(where, name, kind) from error
    if values.dtype.kind not in "biuf":
        raise _no_values(where, name, kind)
    return values


def _no_values(where: str, name: str, kind: Any) -> ExamplesError:
    return ExamplesError(
        f"{where}: column {name!r} holds neither numbers nor text, nor lists of one length",
        received=kind,
        remedy="convert it to numbers or text",
    )


def shaped(values: NDArray[Any], shape: Sequence[int | None] | None) -> NDArray[Any]:
    """Return one value an example as [count, 1] where that is the shape that is taken."""
    if shape is not None and values.ndim == 1 and len(shape) == 2 and shape[1] in (1, None):
        return values.reshape(-1, 1)
    return values
