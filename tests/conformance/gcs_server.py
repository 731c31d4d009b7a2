"""Google Cloud Storage's JSON API, as far as Paring asks it, over HTTP on loopback.

It keeps objects in memory and does what the API's reference says of the requests that it
knows; any other is answered with 501, so that a test can't pass on a guess.
"""

import base64
import email
import hashlib
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

_OBJECTS = "/storage/v1/b/{}/o"


@dataclass
class GcsServer:
    """Buckets with their objects, by name.

    Attributes:
        address: Where it answers.
        objects: Each bucket's objects: their content, and what the API tells of them.
        ignores_conditions: Whether it takes no notice of ifGenerationMatch.
    """

    address: str = ""
    objects: dict[str, dict[str, tuple[bytes, dict[str, Any]]]] = field(default_factory=dict)
    ignores_conditions: bool = False
    _generations: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Response:
        """Return the API's response to a request."""
        # As it was sent: names of objects hold slashes, written as %2F.
        path = (
            request.environ["RAW_URI"].partition("?")[0].partition("://")[2]
            or (request.environ["RAW_URI"].partition("?")[0])
        )
        path = path[path.index("/") :]
        with self._lock:
            return self._answer(request, path)

    def _answer(self, request: Request, path: str) -> Response:
        upload = path.startswith("/upload")
        path = path.removeprefix("/upload").removeprefix("/download")
        parts = [unquote(part) for part in path.split("/")]
        if parts[:4] != ["", "storage", "v1", "b"] or parts[5:6] != ["o"]:
            return Response(f"{request.method} {path}", HTTPStatus.NOT_IMPLEMENTED)
        bucket = self.objects.get(parts[4])
        if bucket is None:
            return _error(404, "The specified bucket does not exist.")
        name = parts[6] if len(parts) > 6 else ""
        match request.method, upload, len(parts):
            case "GET", False, 6:
                return self._list(bucket, request)
            case "GET", False, 7:
                return self._get(bucket, name, request)
            case "POST", True, 6:
                return self._upload(parts[4], bucket, request)
            case "DELETE", False, 7:
                gone = bucket.pop(name, None)
                return Response(status=204) if gone else _error(404, f"No such object: {name}")
            case "POST", False, 12:
                return self._rewrite(bucket, name, parts)
        return Response(f"{request.method} {path}", HTTPStatus.NOT_IMPLEMENTED)

    def _list(self, bucket: dict[str, Any], request: Request) -> Response:
        prefix, delimiter = (request.args.get(name, "") for name in ("prefix", "delimiter"))
        items, prefixes = [], set()
        for name, (_, answer) in sorted(bucket.items()):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(answer)
        result = {"items": items, "prefixes": sorted(prefixes)}
        # One page, which may hold more than maxResults asks for.
        return _json(
            {"kind": "storage#objects"} | {key: item for key, item in result.items() if item}
        )

    def _get(self, bucket: dict[str, Any], name: str, request: Request) -> Response:
        if name not in bucket:
            return _error(404, f"No such object: {name}")
        content, result = bucket[name]
        if request.args.get("alt") != "media":
            return _json(result)
        return Response(content, headers={"X-Goog-Hash": f"md5={result['md5Hash']}"})

    def _upload(self, bucket_name: str, bucket: dict[str, Any], request: Request) -> Response:
        if request.args.get("uploadType") != "multipart":
            return Response("uploadType", HTTPStatus.NOT_IMPLEMENTED)
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n"
        parts = email.message_from_bytes(head.encode() + request.get_data()).get_payload()
        described, media = parts  # type: ignore[misc]
        name = json.loads(described.get_payload())["name"]  # type: ignore[union-attr]
        condition = request.args.get("ifGenerationMatch")
        if condition is not None and not self.ignores_conditions:
            result = bucket[name][1]["generation"] if name in bucket else "0"
            if result != condition:
                return _error(412, "At least one of the pre-conditions did not hold.")
        content = media.get_payload(decode=True)  # type: ignore[union-attr]
        return _json(self._keep(bucket_name, name, content))

    def _rewrite(self, bucket: dict[str, Any], name: str, parts: list[str]) -> Response:
        if parts[7:9] != ["rewriteTo", "b"] or parts[10] != "o":
            return Response("/".join(parts), HTTPStatus.NOT_IMPLEMENTED)
        if name not in bucket:
            return _error(404, f"No such object: {name}")
        result = self._keep(parts[9], parts[11], bucket[name][0])
        return _json({"kind": "storage#rewriteResponse", "done": True, "resource": result})

    def _keep(self, bucket: str, name: str, content: bytes) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        generation = str(next(self._generations))
        result = {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": generation,
            "metageneration": "1",
            "size": str(len(content)),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "etag": f"etag-{generation}",
            "timeCreated": now,
            "updated": now,
        }
        self.objects[bucket][name] = (content, result)
        return result


def _json(content: Any) -> Response:
    return Response(json.dumps(content), mimetype="application/json")


def _error(status: int, message: str) -> Response:
    content = {"error": {"code": status, "message": message, "errors": [{"message": message}]}}
    return Response(json.dumps(content), status, mimetype="application/json")


@contextmanager
def serving() -> Iterator[GcsServer]:
    """A server with no buckets, on a free port of loopback."""
    gcs = GcsServer()

    @Request.application
    def application(request: Request) -> Response:
        return gcs.answer(request)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    gcs.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield gcs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
