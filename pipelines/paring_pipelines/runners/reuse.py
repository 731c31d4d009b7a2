"""Check of an artifact of an earlier run before it is used again."""

from pathlib import Path

from paring.artifacts import Artifact, Report, SelectedModel, Selection, record_digest
from paring.errors import ArtifactTypeError

_RESULTS = (SelectedModel, Selection, Report)
"""What a run puts in place with no step in between; their files are read in any case."""


def check_reusable(path: Path, *, digest: str, record: str, thoroughly: bool = False) -> None:
    """Raise unless an artifact is the one that its step wrote.

    Args:
        path: Path of the artifact.
        digest: Digest of its content, as it was published; "" of a failure.
        record: Digest of its record, as it was published; "" where that is not known.
        thoroughly: Read its files in any case.

    Raises:
        ParingError, OSError: It is missing, was changed, or is another artifact.
    """
    artifact = Artifact.load(path)
    artifact.verify(thoroughly=thoroughly or isinstance(artifact, _RESULTS))
    result = record_digest(path)
    if artifact.digest != digest or not result or record not in ("", result):
        raise ArtifactTypeError(
            f"{path} is not the artifact that its step wrote",
            received=f"{artifact.digest or 'no digest'}, not {digest or 'a failure'}",
            remedy="re-run the step that produced this artifact",
        )
