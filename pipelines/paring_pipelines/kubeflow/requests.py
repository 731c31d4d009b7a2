"""Requests to Kubeflow Pipelines, retried if that is safe.

What can be asked twice is, with growing pauses, where Kubeflow is busy or away. What
makes something is asked again only where it surely was not done; see `idempotency`.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import kfp_server_api as api
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from paring.errors import ClusterError, ParameterError
from paring_pipelines.kubeflow.answers import ApiClient
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.errors import (
    AlreadyExistsError,
    InvalidAnswerError,
    NotFoundError,
    RefusedError,
    RetryableError,
    UnknownOutcomeError,
)
from paring_pipelines.kubeflow.json_objects import InvalidContentError, read_object

_BUSY = 429
_PASSING = (_BUSY, 500, 502, 503, 504)
"""Answers that another attempt may change."""

_LONGEST_WAIT = 30.0
_REMEDIES = {
    400: "look at the options; Kubeflow with several users also needs --namespace",
    401: "set KFP_EXISTING_TOKEN to a token that is still good, or mount a service account's",
    403: "let this account use the namespace; docs/runs.md names the verbs",
    404: "look at the name or id, the namespace and --host",
    409: "choose another name",
}


class Asking:
    """The API client of one Kubeflow Pipelines.

    Attributes:
        settings: How it is asked.
        client: What the API's classes are made with.
    """

    def __init__(self, settings: Connection) -> None:
        self.settings = settings
        self.client = ApiClient(_configuration(settings))

    def read(self, path: str, **parts: str) -> bytes:
        """Return the response to a GET that the API's client does not declare.

        Args:
            path: Below the host, with {NAME} for each of `parts`.
            **parts: What stands for each {NAME}.

        Raises:
            NotFoundError: The API has no such path, or nothing there.
            InvalidAnswerError: It is a page for people.
            ClusterError: Kubeflow can't be reached, or refused.
        """
        return bytes(self.ask(self._get, path, parts, kind=""))

    def read_object(self, path: str, **parts: str) -> dict[str, Any]:
        """Return the JSON object that answers a GET, as `read` does.

        Raises:
            InvalidAnswerError: It is no JSON object.
            ClusterError: As `read`.
        """

        def get(**named: Any) -> dict[str, Any]:
            return read_object(self._get(path, parts, **named))

        return dict(self.ask(get))

    def _get(self, path: str, parts: dict[str, str], **named: Any) -> bytes:
        response = self.client.call_api(
            path,
            "GET",
            path_params=parts,
            auth_settings=["Bearer"],
            _preload_content=False,
            **named,
        )
        content: bytes = response.data
        return content

    def ask(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        again: bool = True,
        kind: str = "json",
        **named: Any,
    ) -> Any:
        """Call `function`, more than once if that can do no harm.

        Args:
            function: Of the API client.
            *arguments: Its own.
            again: Whether it may be done twice.
            kind: Part of the expected content type, "" for any but HTML.
            **named: Its own.

        Raises:
            RetryableError: With `again` off, it was not done, and may be later.
            UnknownOutcomeError: With `again` off, it may have been done or not.
            AlreadyExistsError: Something has the name already.
            InvalidAnswerError: The answers are not what the API declares.
            ClusterError: Kubeflow can't be reached, or refused.
        """
        limits = (self.settings.timeout, self.settings.timeout)
        waits = self.waits()
        while True:
            try:
                result = function(*arguments, _request_timeout=limits, **named)
                self._check_kind(kind)
                return result
            except (InvalidContentError, UnicodeDecodeError) as error:
                page = self._other_kind(kind)
                # An answer that was cut is whole the next time; a page to log in on stays. What
                # was made, neither of them says.
                passing = not (page and again)
                not_done, asked_for = False, 0.0
                problem = self.invalid(page or error)
            except api.ApiException as error:
                not_done = error.status == _BUSY
                passing = error.status in _PASSING
                problem = self._refused(error)
                asked_for = min(_retry_after(error), _LONGEST_WAIT)
            except HTTPError as error:
                not_done = isinstance(error, NewConnectionError | ConnectTimeoutError)
                passing = True
                problem = self._unreachable(error)
                asked_for = 0.0
            except AttributeError as error:
                # The API client's own slip where TLS fails: there is no body to decode.
                if not isinstance(error.__context__, api.ApiException):
                    raise
                raise self._unreachable(error.__context__) from error
            if passing and not again:
                raise _uncertain(problem, not_done, asked_for)
            wait = next(waits, None)
            if not passing or wait is None:
                raise problem
            time.sleep(max(wait, asked_for))

    def server_time(self) -> datetime | None:
        """Return the time of the last answer by the server's clock, to the second.

        Returns:
            None where the answer had no date.
        """
        text = self.client.last_response.getheader("date")
        try:
            return parsedate_to_datetime(text or "")
        except ValueError:
            return None

    def waits(self) -> Iterator[float]:
        """Yield the seconds before each further attempt, growing and spread."""
        wait = self.settings.first_wait
        for _ in range(self.settings.attempts - 1):
            # Spread, so that many that were turned away don't come back at once.
            yield wait * random.uniform(0.5, 1.0)
            wait = min(2 * wait, _LONGEST_WAIT)

    def invalid(self, received: object) -> ClusterError:
        """Return the error for an answer that Kubeflow's API does not give."""
        return InvalidAnswerError(
            f"{self.settings.host} does not answer as Kubeflow Pipelines' API does",
            received=received,
            remedy="set KFP_EXISTING_TOKEN if it asks to log in; or give --host the API's"
            " own address",
        )

    def _check_kind(self, expected: str) -> None:
        """Refuse a page for people, of which nothing was read."""
        other = self._other_kind(expected)
        if other:
            raise InvalidContentError(other)

    def _other_kind(self, expected: str) -> str:
        """Return the type of the last answer if it is not the expected one, else ""."""
        kind = self.client.last_response.getheader("content-type") or ""
        if expected in kind and "html" not in kind:
            return ""
        return kind or "an answer without a type"

    def _refused(self, error: Any) -> ClusterError:
        kinds: dict[int, type[ClusterError]] = {404: NotFoundError, 409: AlreadyExistsError}
        kind = kinds.get(error.status, ClusterError if error.status in _PASSING else RefusedError)
        return kind(
            f"Kubeflow Pipelines at {self.settings.host} answered {error.status}",
            received=_reason(error),
            remedy=_REMEDIES.get(error.status, "look at the log of its API server, ml-pipeline"),
        )

    def _unreachable(self, error: Exception) -> ClusterError:
        return ClusterError(
            f"Kubeflow Pipelines at {self.settings.host} can't be reached",
            received=f"{type(error).__name__}: {error}",
            remedy="look at --host, the network, and whether ml-pipeline runs there",
        )


def _uncertain(problem: ClusterError, not_done: bool, wait: float) -> ClusterError:
    """Return the error for a failed request that may not be sent twice."""
    if not_done:
        busy = RetryableError(problem.what, received=problem.received, remedy=problem.remedy)
        busy.wait = wait
        return busy
    return UnknownOutcomeError(
        f"{problem.what}; it may have been done or not",
        received=problem.received,
        remedy="run the same command again: it finds what was made",
    )


def _configuration(settings: Connection) -> Any:
    result = api.Configuration()
    result.host = settings.host
    # Those of urllib3 would come on top of ours.
    result.retries = False
    if settings.ca_file:
        result.ssl_ca_cert = settings.ca_file
    if settings.token or settings.token_file:
        result.api_key_prefix["authorization"] = "Bearer"
        result.api_key["authorization"] = settings.token
    if settings.token_file:

        def read_token(refreshed: Any) -> None:
            try:
                refreshed.api_key["authorization"] = Path(settings.token_file).read_text().strip()
            except OSError as error:
                raise ParameterError(
                    "KF_PIPELINES_SA_TOKEN_PATH: this file can't be read",
                    received=f"{settings.token_file} ({error.strerror})",
                    remedy="mount a token for the audience pipelines.kubeflow.org there",
                ) from error

        result.refresh_api_key_hook = read_token
    return result


def _reason(error: Any) -> str:
    """Return Kubeflow's reason for its refusal, in one line."""
    try:
        result = json.loads(error.body or "")
        text = str(result.get("message") or result.get("error") or error.reason)
    except (ValueError, AttributeError):
        text = str(error.body or error.reason or "")
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _retry_after(error: Any) -> float:
    text = str((error.headers or {}).get("Retry-After", ""))
    return float(text) if text.isascii() and text.isdigit() else 0.0
