"""A candidate and its source through Apache Beam's RunInference, side by side.

The elements are ranges of rows. Whatever worker gets one reads those rows from
the mapped files, runs both models, and hands on sums; a combiner adds them up.
So no stage holds more than one batch and the sums.
"""

import logging
import pickle
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
from apache_beam.runners.runner import PipelineResult, PipelineState
from numpy.typing import NDArray

from paring.artifacts import Servable
from paring.data.columns import map_array
from paring.data.examples import Split
from paring.errors import ModelError, ParameterError, ParingError, StepFailedError, first_line
from paring.evaluation.beam_options import BeamOptions
from paring.evaluation.metrics import function_digest
from paring.evaluation.scoring import Plan, Tally
from paring.evaluation.scoring.function import load_function
from paring.evaluation.sharing import (
    EvaluationPayload,
    brought,
    fetch_signed,
    fresh_folder,
    put_signed,
    shared,
)
from paring.models.tpu import has_tpu
from paring.runtimes import open_runtime, run_rows
from paring.storage import exists, join

_log = logging.getLogger(__name__)

Range = tuple[int, int]

_CANCEL_SECONDS = 5
"""How long the end of a cancelled job is waited for; Ctrl-C leaves a step 10 s."""

_LOOK_SECONDS = 5
"""How often a worker looks whether its run was given up."""

_RUNNER_ERRORS = (
    RuntimeError,
    DataflowRuntimeException,
    grpc.FutureTimeoutError,
    grpc.RpcError,
)
"""What runners raise when a pipeline breaks, or can't be handed over."""


def tally_pair(
    source: Servable,
    candidate: Servable,
    plan: Plan,
    split: Split,
    *,
    batch_size: int,
    options: BeamOptions,
    shared_dir: str = "",
) -> Tally:
    """Run both models over `split`.

    Args:
        source: A model.
        candidate: Another, with the same signature.
        plan: How they are compared.
        split: From `open_split`; it must stay alive meanwhile.
        batch_size: Rows in one call of a model; a model with a batch size of
            its own is called with that.
        options: Where the workers are, and how many.
        shared_dir: A URI or path that all of them reach, if they are elsewhere.

    Raises:
        ParingError: Whatever opening, running or comparing the models raised.
        StepFailedError: Workers elsewhere could not be reached, or broke.
    """
    features = {name: _file_of(array) for name, array in split.features.items()}
    labels = {
        name: (_file_of(array), array.shape) for name, array in split.labels_by_output.items()
    }
    digest = function_digest(plan.function) if plan.function else ""
    weights = "" if split.weights is None else _file_of(split.weights)
    pair = EvaluationPayload(source, candidate, plan, digest, features, labels, weights)
    ranges = [
        (start, min(start + batch_size, split.count)) for start in range(0, split.count, batch_size)
    ]
    # Unpickling runs code: what comes back must be from these workers.
    key = secrets.token_bytes(32)
    with fresh_folder(shared_dir) as folder, _quiet_beam():
        if options.is_remote:
            pair = shared(pair, folder)
        result = join(folder, "tally")
        pipeline = beam.Pipeline(options=PipelineOptions(list(options.flags)))
        (
            pipeline
            | "Ranges" >> beam.Create(ranges)  # type: ignore[no-untyped-call]
            | "Predict" >> RunInference(_PairHandler(pair))
            | "Tally" >> beam.CombineGlobally(_TallyFn(plan))  # type: ignore[no-untyped-call]
            | "Keep" >> beam.Map(_keep, result, key, pair)  # type: ignore[no-untyped-call]
        )
        _run(pipeline, options)
        tally: Tally | ParingError = pickle.loads(fetch_signed(result, key))
    if isinstance(tally, ParingError):
        raise tally
    return tally


def _file_of(array: NDArray[Any]) -> str:
    if not isinstance(array, np.memmap) or array.filename is None:
        raise TypeError("the split's arrays are not mapped from files")
    return str(array.filename)


def _keep(tally: Tally | ParingError, uri: str, key: bytes, pair: EvaluationPayload) -> None:
    # Not every runner ends a pipeline that was given up, and the folder is gone by then.
    if exists(next(iter(pair.features.values()))):
        put_signed(pickle.dumps(tally), uri, key)


def _run(pipeline: beam.Pipeline, options: BeamOptions) -> None:
    """Run the pipeline to its end, or end it.

    Raises:
        StepFailedError: Workers elsewhere could not be reached, or broke.
    """
    try:
        running = pipeline.run()
        try:
            running.wait_until_finish()  # type: ignore[no-untyped-call]
        except KeyboardInterrupt:
            # Nobody waits for its result any more.
            if options.is_remote:
                _cancel(running, options)
            raise
    except _RUNNER_ERRORS as error:
        if not options.is_remote:
            raise
        raise StepFailedError(
            f"the pipeline did not run to its end on {options.runner}",
            received=_reported(error, options),
            remedy="see that its address in beam_options can be reached from here, that the"
            " workers have this release of Paring, and the runner's own log",
        ) from error


def _cancel(running: PipelineResult, options: BeamOptions) -> None:
    """Cancel the job and wait a moment for its end; warn if it can't be cancelled.

    Flink's job server then drops the job, which goes on in the cluster; see `is_given_up`.
    """
    end = time.monotonic() + _CANCEL_SECONDS
    try:
        running.cancel()  # type: ignore[no-untyped-call]
        while not PipelineState.is_terminal(running.state):  # type: ignore[no-untyped-call]
            if time.monotonic() > end:
                raise RuntimeError(f"it is {running.state} after {_CANCEL_SECONDS} s")
            time.sleep(0.1)
    except _RUNNER_ERRORS as error:
        _log.warning(
            "the job on %s could not be cancelled: %s; its workers skip what remains, but see that"
            " it ends",
            options.runner,
            first_line(error),
        )


def _reported(error: Exception, options: BeamOptions) -> str:
    """Return the end of an error's text; of a timeout, which has none, where and how long."""
    if isinstance(error, grpc.FutureTimeoutError):
        portable = PipelineOptions(list(options.flags)).view_as(PortableOptions)
        return f"no answer from {portable.job_endpoint} within {portable.job_server_timeout} s"
    return f"{type(error).__name__}: {error}"[-2000:]


class _Loaded:
    """Both models and the split, opened in a worker."""

    def __init__(self, pair: EvaluationPayload) -> None:
        self._plan = pair.plan
        self._function = load_function(pair.plan.function) if pair.plan.function else None
        if pair.plan.function and function_digest(pair.plan.function) != pair.function_digest:
            raise ParameterError(
                f"metric: a worker has another file of {pair.plan.function}",
                received=function_digest(pair.plan.function),
                remedy="put the same module into the workers' image",
            )
        self._shared = next(iter(pair.features.values())) if pair.source_uri else ""
        self._next_look = 0.0
        self._is_gone = False
        folder = Path(tempfile.mkdtemp(prefix="paring-worker-"))
        # A worker has no last call; what was fetched goes with this object.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        pair = brought(pair, folder)
        # The source takes TensorFlow; a candidate that is broken may be found so without.
        on_tpu = has_tpu()
        self._candidate = open_runtime(pair.candidate, compiled=on_tpu)
        self._source = open_runtime(pair.source, compiled=on_tpu)
        self._features = {name: map_array(Path(file), name) for name, file in pair.features.items()}
        self._labels = {
            name: map_array(Path(file), name).reshape(shape)
            for name, (file, shape) in pair.labels.items()
        }
        self._weights = map_array(Path(pair.weights), "weights") if pair.weights else None
        # A runner may use this from several threads, which TFLite's interpreter does not bear.
        self._lock = threading.Lock()

    def is_given_up(self) -> bool:
        """Return True if the run's shared files are gone, so that nobody waits for its result.

        Not every engine ends a job that was cancelled.
        """
        now = time.monotonic()
        if self._shared and now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            # A store that does not answer says nothing of the run.
            with suppress(ParingError):
                self._is_gone = not exists(self._shared)
        return self._is_gone

    def tally(self, rows: Range) -> Tally:
        """Run both models on these rows, and return the tally of their outputs."""
        with self._lock:
            return self._tally(slice(*rows))

    def _tally(self, chosen: slice) -> Tally:
        features = {name: np.asarray(array[chosen]) for name, array in self._features.items()}
        labels = {name: np.asarray(array[chosen]) for name, array in self._labels.items()}
        names = list(self._plan.outputs)
        tally = Tally(self._plan)
        tally.add(
            _pick(run_rows(self._source, features), names),
            _pick(run_rows(self._candidate, features), names),
            labels=labels,
            function=self._function,
            weights=None
            if self._weights is None
            else np.asarray(self._weights[chosen]).reshape(-1),
        )
        return tally


class _PairHandler(ModelHandler[Range, Tally | ParingError, _Loaded | ParingError]):
    """Model handler that loads both models once in a worker and runs them on row ranges.

    Beam reports an exception of a worker as text, so one of Paring's own
    travels as a result and is raised when the pipeline has ended.
    """

    def __init__(self, pair: EvaluationPayload) -> None:
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
    ) -> Iterable[Tally | ParingError]:
        for rows in batch:
            if isinstance(model, ParingError):
                yield model
                continue
            if model.is_given_up():
                continue
            try:
                yield model.tally(rows)
            except ParingError as error:
                yield error


class _TallyFn(beam.CombineFn):
    """Sum of the batches' tallies; the first error stays the result."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def create_accumulator(self) -> Tally | ParingError:
        return Tally(self._plan)

    def add_input(
        self, total: Tally | ParingError, batch: Tally | ParingError
    ) -> Tally | ParingError:
        if isinstance(total, ParingError):
            return total
        if isinstance(batch, ParingError):
            return batch
        total.merge(batch)
        return total

    def merge_accumulators(self, totals: Iterable[Tally | ParingError]) -> Tally | ParingError:
        merged: Tally | ParingError = self.create_accumulator()
        for total in totals:
            merged = self.add_input(merged, total)
        return merged

    def extract_output(self, total: Tally | ParingError) -> Tally | ParingError:
        return total


def _pick(outputs: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    if len(outputs) == len(names) == 1:
        # A single output may have lost its name.
        return dict(zip(names, outputs.values(), strict=True))
    for name in names:
        if name not in outputs:
            raise ModelError(
                f"the candidate has no output {name!r}",
                received=", ".join(sorted(outputs)),
                remedy="keep the source's output names when converting it",
            )
    return {name: outputs[name] for name in names}


@contextmanager
def _quiet_beam() -> Iterator[None]:
    """Keep Beam's logs back, wherever it logs to.

    Its errors too, since it raises what they tell of. Some of its modules log to the
    root logger, whose filters see only what is logged to it directly.
    """
    own, root = logging.getLogger("apache_beam"), logging.getLogger()
    before = own.level
    own.setLevel(logging.CRITICAL)
    root.addFilter(_is_not_chatter)
    try:
        yield
    finally:
        root.removeFilter(_is_not_chatter)
        own.setLevel(before)


def _is_not_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL or "apache_beam" not in record.pathname
