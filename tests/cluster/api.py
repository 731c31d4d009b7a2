"""Client of a Kubernetes API server that keeps its warnings."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

Resource = dict[str, Any]


class RefusedError(Exception):
    """Error status that the server answered.

    Attributes:
        code: The HTTP status.
        reason: Kubernetes' word for the status, such as Forbidden.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


@dataclass
class Api:
    """Client with a bearer token.

    Attributes:
        address: URL of the server, https://HOST:PORT.
        authority: File with the certificate of the authority that signed the server's.
        token: Bearer token of the caller.
        warnings: Warnings of the server, in the order of the requests.
    """

    address: str
    authority: Path
    token: str
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(
            ca_certs=str(self.authority),
            # What its certificate is for, whatever port of this machine leads to it.
            server_hostname="localhost",
            assert_hostname="localhost",
            retries=False,
            timeout=60,
        )

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request and return the answer.

        Raises:
            RefusedError: The server refused the request.
        """
        answer = self._pool.request(
            method,
            f"{self.address}{path}",
            body=None if body is None else json.dumps(body),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/json",
                "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        self.warnings += answer.headers.getlist("Warning")
        text = answer.data.decode()
        if answer.status >= 400:
            try:
                status = json.loads(text)
            except ValueError:
                status = {}
            raise RefusedError(
                answer.status, status.get("reason", ""), status.get("message", text)
            ) from None
        return json.loads(text) if text.startswith("{") else text

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def items(self, path: str) -> list[Resource]:
        """Return the objects of a list."""
        result: list[Resource] = self.get(path)["items"]
        return result

    def create(self, path: str, resource: Mapping[str, Any], *, dry: bool = False) -> Resource:
        """Create an object without unknown fields; with `dry`, validate it and store nothing."""
        query = "fieldValidation=Strict" + ("&dryRun=All" if dry else "")
        made: Resource = self.request("POST", f"{path}?{query}", resource)
        return made

    def delete(self, path: str, *, grace_seconds: int | None = None) -> None:
        """Delete an object or all objects of a list; a missing object is no error."""
        options: Resource = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", path, options)
        except RefusedError as error:
            if error.code != 404:
                raise

    def merge(self, path: str, change: Mapping[str, Any]) -> Resource:
        """Apply a strategic merge patch to an object."""
        made: Resource = self.request(
            "PATCH", path, change, Content_Type="application/strategic-merge-patch+json"
        )
        return made


def wait(for_what: str, done: Callable[[], Any], seconds: float = 60) -> Any:
    """Call `done` until it returns a true value, and return that value.

    Raises:
        TimeoutError: No true value was returned within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := done():
            return result
        time.sleep(0.2)
    raise TimeoutError(f"waited {seconds:g} s for {for_what}")


def condition(resource: Resource, kind: str) -> str:
    """Return the status of an object's condition, or "" where it has no such condition."""
    result: Sequence[Resource] = resource.get("status", {}).get("conditions") or []
    return next((item["status"] for item in result if item["type"] == kind), "")
