"""Data that a pipeline's workers share: two models, the rows to run them on, and the result.

Workers of another machine don't see this one's files. What they need is put below a
fresh folder that all of them reach; each of them brings it to itself once.
"""

import hmac
import logging
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from paring.artifacts import SERVING_DIR, Servable
from paring.errors import ParingError, StepFailedError
from paring.evaluation.scoring import Plan
from paring.storage import delete, exists, fetch, is_remote, join, local_path, put

_log = logging.getLogger(__name__)

_DIGEST = "sha256"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class EvaluationPayload:
    """Both models, and the files of the split.

    Attributes:
        source, candidate: What to run.
        plan: How they are compared.
        function_digest: Of the file of the user's function; "" where there is none.
        features: The `.npy` file of each input, a path or a URI.
        labels: That of each output's labels, where there are any, and the
            shape that they are read in.
        weights: That of the sample weights, a path or a URI; "" where all count the same.
        source_uri, candidate_uri: Where the models are shared; "" for their own paths.
    """

    source: Servable
    candidate: Servable
    plan: Plan
    function_digest: str
    features: Mapping[str, str]
    labels: Mapping[str, tuple[str, tuple[int, ...]]]
    weights: str = ""
    source_uri: str = ""
    candidate_uri: str = ""


@contextmanager
def fresh_folder(shared_dir: str) -> Iterator[str]:
    """Yield a new folder below `shared_dir`, or on this machine if it is ""; removed in the end.

    Raises:
        ParameterError: `shared_dir` is of no known kind.
    """
    if not shared_dir:
        with tempfile.TemporaryDirectory(prefix="paring-evaluate-") as folder:
            yield folder
        return
    if not is_remote(shared_dir):
        # Workers may be in another working directory.
        shared_dir = str(local_path(shared_dir).absolute())
    folder = join(shared_dir, f"paring-evaluate-{uuid.uuid4().hex}")
    try:
        yield folder
    finally:
        try:
            delete(folder)
        except ParingError as error:
            # The result is there, or a better reason why not.
            _log.warning("%s could not be removed: %s", folder, error)


def shared(pair: EvaluationPayload, folder: str) -> EvaluationPayload:
    """Put all that `pair` names below `folder`; the pair with what is there.

    Raises:
        ParingError: It can't be written.
    """
    source_uri = _shared_model(pair.source, join(folder, "source"))
    candidate_uri = source_uri
    if pair.candidate.path != pair.source.path:
        candidate_uri = _shared_model(pair.candidate, join(folder, "candidate"))
    features: dict[str, str] = {}
    labels: dict[str, tuple[str, tuple[int, ...]]] = {}
    # Numbered, since the names of tensors may hold anything.
    for number, (name, file) in enumerate(pair.features.items()):
        features[name] = join(folder, "features", f"{number}.npy")
        put(Path(file), features[name])
    for number, (name, (file, shape)) in enumerate(pair.labels.items()):
        labels[name] = join(folder, "labels", f"{number}.npy"), shape
        put(Path(file), labels[name][0])
    weights = ""
    if pair.weights:
        weights = join(folder, "weights.npy")
        put(Path(pair.weights), weights)
    return replace(
        pair,
        source_uri=source_uri,
        candidate_uri=candidate_uri,
        features=features,
        labels=labels,
        weights=weights,
    )


def _shared_model(model: Servable, uri: str) -> str:
    """Put what is served, and not the form that training goes on from."""
    served = model.path / SERVING_DIR
    if served.is_dir():
        put(served, join(uri, SERVING_DIR))
        return uri
    # A TFLite file is known by its name.
    target = join(uri, model.path.name)
    put(model.path, target)
    return target


def brought(pair: EvaluationPayload, into: Path) -> EvaluationPayload:
    """Return the pair on this machine: what is in a store is fetched, below `into`.

    Raises:
        ParingError: It is not there, or can't be read.
    """
    source, candidate = pair.source, pair.candidate
    if pair.source_uri:
        source = replace(source, path=fetch(pair.source_uri, into / "source"))
        candidate = replace(candidate, path=source.path)
    if pair.candidate_uri != pair.source_uri:
        candidate = replace(candidate, path=fetch(pair.candidate_uri, into / "candidate"))
    return replace(
        pair,
        source=source,
        candidate=candidate,
        features={name: str(fetch(uri, into / "features")) for name, uri in pair.features.items()},
        labels={
            name: (str(fetch(uri, into / "labels")), shape)
            for name, (uri, shape) in pair.labels.items()
        },
        weights=str(fetch(pair.weights, into / "weights")) if pair.weights else "",
    )


def put_signed(content: bytes, uri: str, key: bytes) -> None:
    """Write a result with a signature that distinguishes it from other files there.

    Raises:
        ParingError: It can't be written.
    """
    with tempfile.TemporaryDirectory(prefix="paring-result-") as folder:
        file = Path(folder) / "result"
        file.write_bytes(hmac.digest(key, content, _DIGEST) + content)
        put(file, uri)


def fetch_signed(uri: str, key: bytes) -> bytes:
    """Return the content that `put_signed` wrote with the same key.

    Raises:
        StepFailedError: There is no content, or its signature differs.
        ParingError: The content can't be read.
    """
    if not exists(uri):
        raise StepFailedError(
            "the Beam pipeline has ended without a result",
            received=uri,
            remedy="leave out options that only prepare a job; and look at the runner's own log",
        )
    with tempfile.TemporaryDirectory(prefix="paring-result-") as folder:
        stored = fetch(uri, Path(folder)).read_bytes()
    digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    if not hmac.compare_digest(digest, hmac.digest(key, content, _DIGEST)):
        raise StepFailedError(
            "the pipeline's result is not what its workers wrote",
            received=uri,
            remedy="see who else may write to the shared folder",
        )
    return content
