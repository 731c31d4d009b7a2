"""Parallel reading of TFRecord files: counting and parsing of their records.

A record is its length (8 bytes, little-endian), a checksum of that (4), its content, and a
checksum of that (4): tensorflow/core/lib/io/record_writer.h.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from paring.errors import ExamplesError

# Of what tf.data holds of the batches at once, where it has a choice.
_MEMORY_BYTES = 256 * 2**20

_HEADER_BYTES, _CHECKSUM_BYTES = 12, 4

# Nothing is as long as that: it is not a length.
_LONGEST_BYTES = 2**40


def count_records(files: Sequence[Path]) -> list[int]:
    """Return the number of records in each of the files, gzip if named `.gz`.

    Goes from length to length, so that of plain files hardly anything is read. Content and
    checksums are looked at when the records are parsed.

    Raises:
        ExamplesError: A file is not made of records, or was cut off.
    """
    # Unpacking gzip leaves the other threads running.
    with ThreadPoolExecutor() as threads:
        return list(threads.map(_count, files))


def _count(file: Path) -> int:
    count = 0
    try:
        with gzip.open(file) if _packed(file) else file.open("rb") as stream:
            while header := stream.read(_HEADER_BYTES):
                length = int.from_bytes(header[:8], "little")
                if length > _LONGEST_BYTES:
                    raise EOFError(f"a length of {length} bytes")
                stream.seek(length + _CHECKSUM_BYTES - 1, 1)
                if len(header) < _HEADER_BYTES or not stream.read(1):
                    raise EOFError("cut off")
                count += 1
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, f"record {count} (counted from 0): {error}") from error
    return count


def unreadable(file: Path, received: str) -> ExamplesError:
    """Return the error for a file whose records can't be separated, or are damaged."""
    return ExamplesError(
        f"{file}: not a readable TFRecord file",
        received=received,
        remedy="write it again; it may have been cut off"
        " (files named .gz are taken to be gzip, others to be plain)",
    )


def first_record(file: Path) -> bytes:
    """Return the content of the first record of a file that has one.

    Raises:
        ExamplesError: It is damaged.
    """
    import tensorflow as tf

    try:
        record = next(records(file))
    except tf.errors.OpError as error:
        raise unreadable(file, "record 0 (counted from 0) is damaged") from error
    return record


def records(file: Path) -> Iterator[bytes]:
    """Return the content of each record of the file, gzip if named `.gz`.

    Raises:
        tf.errors.OpError: It is damaged.
    """
    import tensorflow as tf

    result: Iterator[bytes] = tf.data.TFRecordDataset(
        str(file), _compression(file)
    ).as_numpy_iterator()
    return result


def parsed_batches(
    files: Sequence[Path], spec: Mapping[str, Any], *, lengths: Mapping[str, int], size: int
) -> Iterator[tuple[int, int, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
    """Return every record of the files, parsed, in batches of one file each.

    Several files are read, and several batches parsed, at a time; tf.data chooses how many
    by the processors, and within `_MEMORY_BYTES`. So the batches come in any order, and
    each says where it belongs.

    Args:
        files: Gzip if named `.gz`.
        spec: A tf.io.FixedLenFeature for each feature, by its name; strings are scalars.
        lengths: The bytes in each string feature.
        size: Records in a batch; the last one of a file may be smaller.

    Yields:
        The file's place in `files`; the place in the file of the batch's first record; each
        feature, [batch, *shape], strings as uint8 [batch, bytes], cut or filled with zeros
        to their length; and the real length of each string, int32 [batch], by feature.

    Raises:
        tf.errors.OpError: A file is damaged, or a record not like `spec`; it does not say
            which file.
    """
    import tensorflow as tf

    def read(number: Any, file: Any, compression: Any) -> tf.data.Dataset:
        batches = tf.data.TFRecordDataset(file, compression).batch(size).enumerate()
        return batches.map(lambda batch, records: (number, batch * size, records))

    def parse(number: Any, row: Any, records: Any) -> Any:
        features = tf.io.parse_example(records, dict(spec))
        result = {name: tf.strings.length(features[name]) for name in lengths}
        for name, length in lengths.items():
            features[name] = tf.io.decode_raw(features[name], tf.uint8, fixed_length=length)
        return number, row, features, result

    names, compressions = [str(file) for file in files], [_compression(file) for file in files]
    dataset = tf.data.Dataset.from_tensor_slices((range(len(files)), names, compressions))
    dataset = dataset.interleave(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    options = tf.data.Options()
    options.autotune.ram_budget = _MEMORY_BYTES
    batches: Iterator[Any] = (
        dataset.prefetch(tf.data.AUTOTUNE).with_options(options).as_numpy_iterator()
    )
    return batches


def _packed(file: Path) -> bool:
    return file.suffix == ".gz"


def _compression(file: Path) -> str:
    return "GZIP" if _packed(file) else ""
