"""Examples for a model that was cut at its numeric core: text work done once, for all of them.

Examples come as the whole model takes them: serialized tf.Examples in TFRecords, or columns of
text and numbers in TFRecords, CSV, Parquet or NumPy's files. They become the core's inputs, as
arrays in Paring's own form. Some of them are run through the whole model too, so that figures of
the core are figures of the whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import Model
from paring.data.columns import label_outputs
from paring.data.example_files import WHOLE, Group, column_file, locate, read_columns
from paring.data.raw_sample import SAMPLE, write_sample
from paring.data.record_files import records
from paring.data.tables import column_values, read_table, shaped
from paring.data.tfrecords import read_records
from paring.data.weights import FOLDER as WEIGHTS_FOLDER
from paring.errors import ExamplesError, UnsupportedError, first_line, nearest
from paring.models.arguments import by_name
from paring.models.numeric_parts import SOURCE, Interface, Tensor
from paring.models.part_calls import PartCalls, equal_outputs
from paring.models.quiet import quiet_tensorflow
from paring.models.saved_model import SavedModel
from paring.models.signature import TensorSpec
from paring.models.signature_loading import load_signatures

# Rows of a call of the text work. The whole is called on fewer at a time, so that a model whose
# rows depend on one another is found.
_BATCH = 256
_COMPARED = 64
_COMPARED_BATCHES = 2

Raw = Mapping[str, NDArray[Any]]
"""A batch as the whole model takes it: an array for each input, text as objects."""


def preprocessed(
    path: Path, model: Model, scratch: Path, *, label: str, weights: str
) -> tuple[Path, int]:
    """Do the text work on examples.

    Args:
        path: The examples.
        model: A model with `parts_dir`.
        scratch: Gets the arrays, in Paring's own form.
        label: As `import_examples` takes it.
        weights: The column of sample weights; "" for none.

    Returns:
        The folder of the arrays, and the number of rows on which the core was compared with the
        whole. `path` itself and 0 where it holds the core's inputs already.

    Raises:
        ExamplesError: They can't be read, or are not what the whole model takes.
        UnsupportedError: The core does not answer as the whole does.
    """
    quiet_tensorflow()
    groups = locate(path)
    source = _Source(model, label=label, weights=weights)
    if all(source.holds_core_inputs(group) for group in groups.values()):
        return path, 0
    compared = 0
    for split, group in groups.items():
        folder = scratch if split == WHOLE else scratch / f"Split-{split}"
        folder.mkdir(parents=True, exist_ok=True)
        compared += source.write(group, folder)
    return scratch, compared


class _Source:
    """The whole model, its text work, and its core."""

    def __init__(self, model: Model, *, label: str, weights: str) -> None:
        self._core = SavedModel.open(model)
        self._parts = PartCalls(model.parts_dir, self._core.folder, trusted=model.trusted)
        self._interface: Interface = self._parts.interface
        whole = SavedModel.open(_whole(model))
        self._whole_model = load_signatures(whole)
        self._whole = by_name(self._whole_model.signatures[self._interface.signature])
        self._labels = label_outputs(self._core.signature(), label)
        self._weights = weights
        self._inputs = {item.name: item for item in self._interface.inputs}

    def holds_core_inputs(self, group: Group) -> bool:
        names = group.arrays or (group.archive[1] if group.archive is not None else {})
        return all(item.name in names for item in self._interface.core_inputs) and not all(
            name in names for name in self._inputs
        )

    def write(self, group: Group, folder: Path) -> int:
        """Write a group's arrays; return the number of rows that were compared."""
        raw, others = self._read(group, folder / "columns")
        parts: dict[str, list[NDArray[Any]]] = {i.name: [] for i in self._interface.core_inputs}
        compared = 0
        for number, batch in enumerate(raw):
            made = self._preprocess(batch, group.where)
            for name, array in made.items():
                parts[name].append(array)
            if number == 0:
                rows = {name: array[:_COMPARED] for name, array in batch.items()}
                write_sample(folder / SAMPLE, rows)
            if number < _COMPARED_BATCHES:
                compared += self._compare(batch, made, group.where)
        for name, arrays in parts.items():
            if not arrays:
                raise ExamplesError(
                    f"{group.where}: the split is empty",
                    received="0 examples",
                    remedy="give at least one example in each split",
                )
            np.save(folder / column_file(name), _joined(arrays, name, group.where))
        for name, array in others.items():
            target = folder / column_file(name)
            if name == self._weights:
                target = folder / WEIGHTS_FOLDER / column_file(name)
                target.parent.mkdir()
            np.save(target, array)
        return compared

    def _read(self, group: Group, scratch: Path) -> tuple[Iterator[Raw], dict[str, NDArray[Any]]]:
        """Return the batches of a group, and its labels and weights by their columns."""
        scratch.mkdir()
        features = self._interface.features
        if group.tables:
            return self._from_table(group)
        if group.records:
            others, _ = read_records(
                group.records,
                group.folder / "feature_spec.json",
                inputs={},
                labels=self._labels,
                scratch=scratch,
                weights=self._weights,
            )
            if len(self._inputs) == 1 and set(features) == set(self._inputs):
                return self._serialized(group.records), others
            return self._parsed(group), others
        columns = read_columns(
            group,
            inputs={
                item.name: TensorSpec(item.name, item.shape or (), item.dtype)
                for item in self._interface.inputs
            },
            labels=self._labels,
            scratch=scratch,
            weights=self._weights,
        )
        arrays = dict(columns.arrays)
        if columns.weights is not None:
            arrays[columns.weights[0]] = columns.weights[1]
        raw = {name: self._column(arrays, name, group.where) for name in self._inputs}
        others = {name: array for name, array in arrays.items() if name not in self._inputs}
        return _batches(raw), others

    def _column(self, arrays: Mapping[str, NDArray[Any]], name: str, where: str) -> NDArray[Any]:
        if name not in arrays:
            raise ExamplesError(
                f"{where}: no column for the model's input {name!r}",
                received=f"columns {', '.join(sorted(arrays)) or 'none'}",
                remedy=f"add a column named {name}",
            )
        return _typed(arrays[name], self._inputs[name], where)

    def _serialized(self, files: Sequence[Path]) -> Iterator[Raw]:
        (name,) = self._inputs
        for batch in _record_batches(files):
            yield {name: np.array(batch, object)}

    def _parsed(self, group: Group) -> Iterator[Raw]:
        import tensorflow as tf

        spec = {
            name: tf.io.FixedLenFeature(_row_shape(item), _record_dtype(item))
            for name, item in self._inputs.items()
        }
        for batch in _record_batches(group.records):
            try:
                features = tf.io.parse_example(batch, spec)
            except (tf.errors.OpError, UnicodeDecodeError) as error:
                raise ExamplesError(
                    f"{group.where}: the records don't hold what the model takes",
                    received=first_line(error),
                    remedy=f"give the features {', '.join(spec)}",
                ) from error
            yield {
                name: _typed(features[name].numpy(), item, group.where)
                for name, item in self._inputs.items()
            }

    def _from_table(self, group: Group) -> tuple[Iterator[Raw], dict[str, NDArray[Any]]]:
        features = self._interface.features
        tensors = [*self._inputs.values(), *(item for each in features.values() for item in each)]
        table = read_table(group.tables, [item.name for item in tensors if item.dtype == "object"])
        names = set(table.column_names)
        wanted = {*self._labels, *(item.name for item in self._labels.values()), self._weights}
        others = {
            name: column_values(table, name, group.where)
            for name in sorted((wanted | {"y"}) & names - set(self._inputs))
        }
        raw: dict[str, NDArray[Any]] = {}
        for name, item in self._inputs.items():
            if name in features and name not in names:
                raw[name] = _serialize(table, features[name], group.where)
            else:
                values = column_values(table, name, group.where)
                raw[name] = _typed(shaped(values, item.shape), item, group.where)
        return _batches(raw), others

    def _preprocess(self, batch: Raw, where: str) -> dict[str, NDArray[Any]]:
        import tensorflow as tf

        try:
            made = self._parts.core_inputs(self._parts.preprocess(self._tensors(batch)))
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ExamplesError(
                f"{where}: the model's own text work does not take these examples",
                received=first_line(error),
                remedy="give examples as the model was trained on: "
                + (_wanted(self._interface) or ", ".join(self._inputs)),
            ) from error
        return {name: tensor.numpy() for name, tensor in made.items()}

    def _compare(self, batch: Raw, made: Mapping[str, NDArray[Any]], where: str) -> int:
        """Compare the core on the arrays with the whole on the examples.

        Raises:
            UnsupportedError: They differ.
        """
        count = min(_COMPARED, len(next(iter(made.values()))))
        whole = self._whole(self._tensors({name: item[:count] for name, item in batch.items()}))
        core = by_name(self._parts.functions[1])
        import tensorflow as tf

        answers = core({name: tf.constant(array) for name, array in made.items()})
        own = set(self._interface.outputs) - set(self._interface.post_outputs)
        for name in sorted(own):
            source = self._interface.outputs[name]
            if source in answers and not equal_outputs(
                whole[name].numpy(), answers[source].numpy()[:count]
            ):
                raise UnsupportedError(
                    f"{where}: output {name!r} of the model's numeric core differs from that of"
                    " the whole model",
                    received=f"{count} examples",
                    remedy="serve the model as it is; its rows may depend on one another",
                )
        return count

    def _tensors(self, batch: Raw) -> dict[str, Any]:
        import tensorflow as tf

        kinds = {name: item.dtype for name, item in self._inputs.items()}
        return {
            name: tf.constant(array, tf.string if kinds[name] == "object" else kinds[name])
            for name, array in batch.items()
        }


def _record_batches(files: Sequence[Path]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for file in files:
        for record in records(file):
            batch.append(record)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _whole(model: Model) -> Model:
    """Return the whole model, which is trusted where the user trusts the artifact."""
    return Model(model.parts_dir / SOURCE, signature=model.signature, trusted=model.trusted)


def _wanted(interface: Interface) -> str:
    return ", ".join(
        f"{item.name} ({'text' if item.dtype == 'object' else item.dtype})"
        for each in interface.features.values()
        for item in each
    )


def _batches(raw: Mapping[str, NDArray[Any]]) -> Iterator[Raw]:
    count = max((len(array) for array in raw.values()), default=0)
    for start in range(0, count, _BATCH):
        yield {name: array[start : start + _BATCH] for name, array in raw.items()}


def _typed(array: NDArray[Any], item: Tensor, where: str) -> NDArray[Any]:
    """Return a column in the type of an input.

    Raises:
        ExamplesError: It has another one.
    """
    if item.dtype == "object":
        if array.dtype.kind == "U":
            array = np.char.encode(array, "utf-8")
        if array.dtype.kind not in "SO":
            raise ExamplesError(
                f"{where}: the model takes text for {item.name!r}",
                received=array.dtype,
                remedy="give text",
            )
        array = array.astype(object)
    elif array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, item.dtype, "same_kind"):
        raise ExamplesError(
            f"{where}: the model takes {item.dtype} for {item.name!r}",
            received=array.dtype,
            remedy=f"convert it to {item.dtype}",
        )
    else:
        array = array.astype(item.dtype)
    return shaped(array, item.shape)


def _row_shape(item: Tensor) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in (item.shape or (None,))[1:])


def _record_dtype(item: Tensor) -> Any:
    """Return the type in which a tf.Example holds an input."""
    import tensorflow as tf

    if item.dtype == "object":
        return tf.string
    return tf.float32 if item.dtype.startswith("float") else tf.int64


def _serialize(table: Any, features: Sequence[Tensor], where: str) -> NDArray[Any]:
    """Return each row of a table as a serialized tf.Example; an empty field is left out.

    Raises:
        ExamplesError: A column is missing that each example must hold, or has another type.
    """
    import tensorflow as tf

    names = set(table.column_names)
    for item in features:
        if item.required and item.name not in names:
            raise ExamplesError(
                f"{where}: no column for the model's feature {item.name!r}",
                received=f"columns {', '.join(table.column_names)}",
                remedy=nearest(item.name, names),
            )
    present = [item for item in features if item.name in names]
    if not present:
        raise ExamplesError(
            f"{where}: no column is a feature of the model",
            received=f"columns {', '.join(table.column_names)}",
            remedy=f"name the columns {', '.join(item.name for item in features)}",
        )
    examples = [tf.train.Example() for _ in range(table.num_rows)]
    for item in present:
        for row, value in enumerate(table.column(item.name).to_pylist()):
            if value is not None:
                _store(examples[row], item, value, f"{where}, row {row} (counted from 0)")
    return np.array([example.SerializeToString() for example in examples], object)


def _store(example: Any, item: Tensor, value: Any, where: str) -> None:
    """Put a value, or a list of them, into a tf.Example."""
    values = value if isinstance(value, list) else [value]
    feature = example.features.feature[item.name]
    try:
        if item.dtype == "object":
            feature.bytes_list.value.extend(
                each if isinstance(each, bytes) else each.encode() for each in values
            )
        elif item.dtype == "int64":
            if any(each != int(each) for each in values):
                raise ValueError("no whole number")
            feature.int64_list.value.extend(int(each) for each in values)
        else:
            feature.float_list.value.extend(float(each) for each in values)
    except (AttributeError, TypeError, ValueError) as error:
        kind = "text" if item.dtype == "object" else item.dtype
        raise ExamplesError(
            f"{where}: the model takes {kind} for {item.name!r}",
            received=repr(value)[:80],
            remedy=f"convert the column to {kind}",
        ) from error


def _joined(arrays: Sequence[NDArray[Any]], name: str, where: str) -> NDArray[Any]:
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise UnsupportedError(
            f"{where}: input {name!r} of the numeric core has another shape in each batch",
            received=" and ".join(map(str, shapes[:3])),
            remedy="pad text to a fixed length in the model, as output_sequence_length does",
        )
    return np.concatenate(arrays)
