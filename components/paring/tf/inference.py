"""A candidate and its source through Apache Beam's RunInference, side by side.

The elements are ranges of rows. Whatever worker gets one reads those rows from
the mapped files, runs both models, and hands on class ids; a combiner adds them
up. So no stage holds more than one batch and the sums.
"""

import logging
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray

from paring.artifacts import Servable
from paring.errors import ModelError, ParingError
from paring.runtimes import Runtime, open_runtime
from paring.tf.columns import map_array
from paring.tf.examples import Split
from paring.tf.scoring import Outcome, Tally, compare

# DirectRunner would first try to download another runner, Prism.
_OPTIONS = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]

Range = tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """Both models, and the files of the split.

    Attributes:
        source, candidate: What to run.
        output: The name of the output that holds the scores.
        features: The `.npy` file of each input.
        labels: That of the labels, or None.
    """

    source: Servable
    candidate: Servable
    output: str
    features: Mapping[str, Path]
    labels: Path | None


def tally_pair(
    source: Servable, candidate: Servable, output: str, split: Split, batch_size: int
) -> Tally:
    """Run both models over `split`.

    Args:
        source: A classifier.
        candidate: Another, with the same signature.
        output: The name of their output [batch, classes].
        split: From `open_split`; it must stay alive meanwhile.
        batch_size: Rows in one call of a model; a model with a batch size of
            its own is called with that.

    Raises:
        ParingError: Whatever opening or running a model raised.
    """
    features = {name: _file_of(array) for name, array in split.features.items()}
    labels = None if split.labels is None else _file_of(split.labels)
    pair = Pair(source, candidate, output, features, labels)
    ranges = [
        (start, min(start + batch_size, split.count)) for start in range(0, split.count, batch_size)
    ]
    with tempfile.TemporaryDirectory(prefix="paring-evaluate-") as folder, _quiet_beam():
        result = Path(folder) / "tally.pickle"
        with beam.Pipeline(options=PipelineOptions(_OPTIONS)) as pipeline:
            (
                pipeline
                | "Ranges" >> beam.Create(ranges)  # type: ignore[no-untyped-call]
                | "Predict" >> RunInference(_PairHandler(pair))
                | "Tally" >> beam.CombineGlobally(_TallyFn())  # type: ignore[no-untyped-call]
                | "Keep" >> beam.Map(_keep, result)  # type: ignore[no-untyped-call]
            )
        tally: Tally | ParingError = pickle.loads(result.read_bytes())
    if isinstance(tally, ParingError):
        raise tally
    return tally


def _file_of(array: NDArray[Any]) -> Path:
    if not isinstance(array, np.memmap) or array.filename is None:
        raise TypeError("the split's arrays are not mapped from files")
    return Path(array.filename)


def _keep(tally: Tally | ParingError, file: Path) -> None:
    file.write_bytes(pickle.dumps(tally))


class _Loaded:
    """Both models and the split, opened in a worker."""

    def __init__(self, pair: Pair) -> None:
        self._output = pair.output
        self._source = open_runtime(pair.source)
        self._candidate = open_runtime(pair.candidate)
        self._features = {name: map_array(file, name) for name, file in pair.features.items()}
        self._labels = None if pair.labels is None else map_array(pair.labels, "label").reshape(-1)

    def outcome(self, rows: Range) -> Outcome:
        """What both models say about these rows."""
        chosen = slice(*rows)
        features = {name: np.asarray(array[chosen]) for name, array in self._features.items()}
        labels = None if self._labels is None else np.asarray(self._labels[chosen])
        return compare(
            _scores(self._source, features, self._output),
            _scores(self._candidate, features, self._output),
            labels,
        )


class _PairHandler(ModelHandler[Range, Outcome | ParingError, _Loaded | ParingError]):
    """Loads both models once in a worker and runs them on ranges of rows.

    Beam reports an exception of a worker as text, so one of Paring's own
    travels as a result and is raised when the pipeline has ended.
    """

    def __init__(self, pair: Pair) -> None:
        # A range is a batch already.
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._pair = pair

    def load_model(self) -> _Loaded | ParingError:
        try:
            return _Loaded(self._pair)
        except ParingError as error:
            return error

    def run_inference(
        self,
        batch: Sequence[Range],
        model: _Loaded | ParingError,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Outcome | ParingError]:
        for rows in batch:
            if isinstance(model, ParingError):
                yield model
                continue
            try:
                yield model.outcome(rows)
            except ParingError as error:
                yield error


class _TallyFn(beam.CombineFn):
    """Adds outcomes up; an error, once met, stays the result."""

    def create_accumulator(self) -> Tally | ParingError:
        return Tally()

    def add_input(
        self, total: Tally | ParingError, outcome: Outcome | ParingError
    ) -> Tally | ParingError:
        if isinstance(total, ParingError):
            return total
        if isinstance(outcome, ParingError):
            return outcome
        total.add(outcome)
        return total

    def merge_accumulators(self, totals: Iterable[Tally | ParingError]) -> Tally | ParingError:
        merged = Tally()
        for total in totals:
            if isinstance(total, ParingError):
                return total
            merged.merge(total)
        return merged

    def extract_output(self, total: Tally | ParingError) -> Tally | ParingError:
        return total


def _scores(runtime: Runtime, features: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
    """The scores of any number of rows, whatever batch the model takes."""
    count = len(next(iter(features.values())))
    size = runtime.batch_size
    if size is None or size == count:
        return _pick(runtime.run(features), output)
    parts = []
    for start in range(0, count, size):
        part = {name: array[start : start + size] for name, array in features.items()}
        have = min(size, count - start)
        if have < size:
            # The last row again and again; those results are dropped.
            part = {
                name: np.concatenate([array, np.repeat(array[-1:], size - have, axis=0)])
                for name, array in part.items()
            }
        parts.append(_pick(runtime.run(part), output)[:have])
    return np.concatenate(parts)


def _pick(outputs: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
    if output in outputs:
        return outputs[output]
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    raise ModelError(
        f"the candidate has no output {output!r}",
        received=", ".join(sorted(outputs)),
        remedy="keep the source's output names when converting it",
    )


@contextmanager
def _quiet_beam() -> Iterator[None]:
    """Beam below the level of errors, wherever it logs to.

    Some of its modules log to the root logger, whose filters see only what is
    logged to it directly.
    """
    own, root = logging.getLogger("apache_beam"), logging.getLogger()
    before = own.level
    own.setLevel(logging.ERROR)
    root.addFilter(_is_not_chatter)
    try:
        yield
    finally:
        root.removeFilter(_is_not_chatter)
        own.setLevel(before)


def _is_not_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "apache_beam" not in record.pathname
