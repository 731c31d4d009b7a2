"""A Kubeflow Pipelines API on loopback: keeps what it is told, and checks each request.

It takes what `kfp_api` finds declared and nothing else. Pipelines, versions,
experiments, runs and recurring runs lie in an SQLite file, with the rules of the real
server: names of pipelines, versions and experiments are unique, those of runs and
recurring runs are not; times are told in whole seconds. Nothing is ever run; a test
says how a run ended.
"""

import email
import email.policy
import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from tests.conformance.kfp_api import Operation, SchemaError, check, check_body, check_query
from tests.conformance.kfp_api import operations as declared_operations
from tests.conformance.kfp_faults import Faults
from tests.conformance.kfp_spec import check_parameters, checked_spec
from tests.conformance.kfp_store import ID, RefusedError, Store

_CODES = {400: 3, 401: 16, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14}


@dataclass(frozen=True)
class Request:
    """One request, checked."""

    operation: Operation
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any


@dataclass
class KfpServer(AbstractContextManager["KfpServer"]):
    """The server, in a thread.

    Attributes:
        file: Where its state lies; another server on the same file goes on with it.
        faults: What goes wrong.
        stall: Seconds that it does not answer, where it shall not answer in time.
        multi_user: Whether everything lies in a namespace.
        token: The bearer token that it asks for, "" for none.
        login: Whether it shows a page to log in on to all who ask.
        certificate: A PEM file with its key and certificate, for https; None for http.
        violations: Requests that the API does not declare; a test expects none.
        requests: "METHOD PATH" of each.
    """

    file: Path
    faults: Faults = field(default_factory=Faults)
    stall: float = 0.5
    multi_user: bool = False
    token: str = ""
    login: bool = False
    certificate: Path | None = None
    violations: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.file)
        self._idle = threading.Condition()
        self._working = 0
        self._operations = declared_operations()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.kfp = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self.settled()
        self.store.close()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While a request is worked on, which goes on when its client has gone."""
        with self._idle:
            self._working += 1
        try:
            yield
        finally:
            with self._idle:
                self._working -= 1
                self._idle.notify_all()

    def settled(self) -> None:
        """Wait until nothing is worked on."""
        with self._idle:
            self._idle.wait_for(lambda: self._working == 0)

    @property
    def url(self) -> str:
        """Where it answers."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self._http.server_address[1]}"

    def runs(self) -> list[dict[str, Any]]:
        """Every run, the oldest first."""
        return self.store.rows("run")

    def schedules(self) -> list[dict[str, Any]]:
        """Every recurring run, the oldest first."""
        return self.store.rows("schedule")

    def finish(self, run_id: str, state: str = "SUCCEEDED", **more: Any) -> None:
        """Say how a run ended; `more` are other fields of a V2beta1Run."""
        self.store.change("run", run_id, {"state": state, "finished_at": _now(), **more})

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> dict[str, Any]:
        """What the API says to a request.

        Raises:
            RefusedError: It says no.
        """
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Request header error: there is no user identity header.")
        parts = urlsplit(target)
        for operation in self._operations:
            found = operation.match(method, parts.path)
            if found is not None:
                break
        else:
            self.violations.append(f"{method} {target}")
            raise RefusedError(404, "Not Found")
        try:
            query = check_query(operation, parse_qs(parts.query))
            content = self._content(operation, headers, body)
            self._check_filter(query)
        except SchemaError as error:
            self.violations.append(f"{method} {target}: {error}")
            raise RefusedError(400, f"Invalid input error: {error}") from error
        handle: Callable[[Request], dict[str, Any]] | None = getattr(
            self, f"_{operation.name.rpartition('_service_')[2]}", None
        )
        if handle is None:
            raise RefusedError(501, f"{operation.name} is not there")
        path = {name: unquote(value) for name, value in found.items()}
        with self.store.lock:
            told = handle(Request(operation, path, query, content))
        try:
            check(operation.response, told, operation.response)
        except SchemaError as error:
            self.violations.append(f"the answer to {method} {target}: {error}")
        return told

    def _content(self, operation: Operation, headers: Any, body: bytes) -> Any:
        kind = headers.get("Content-Type", "")
        if operation.file:
            message = email.message_from_bytes(
                f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP
            )
            for part in message.iter_parts():
                if part.get_param("name", header="content-disposition") == operation.file:
                    return part.get_payload(decode=True)
            raise SchemaError(f"{operation.name} needs the form field {operation.file}")
        if not operation.body:
            # The client sends an empty body with a POST that takes none.
            if body not in (b"", b"null"):
                raise SchemaError(f"{operation.name} takes no body")
            return None
        if kind != "application/json":
            raise SchemaError(f"{operation.name} takes JSON, not {kind}")
        value = json.loads(body or b"null")
        check_body(operation.body, value)
        return value

    def _check_filter(self, query: Mapping[str, str]) -> None:
        if not query.get("filter"):
            return
        given = json.loads(query["filter"])
        for one in given.get("predicates", []):
            # JSON's mapping of protocol buffers takes both spellings, and numbers of enums.
            if "stringValue" in one:
                one["string_value"] = one.pop("stringValue")
            if one.get("operation") == 1:
                one["operation"] = "EQUALS"
        check("V2beta1Filter", given, "filter")

    def _list(self, kind: str, what: str, request: Request, parent: str | None = None) -> Any:
        query = request.query
        namespace = query.get("namespace", "")
        if self.multi_user and kind in ("run", "schedule", "experiment") and not namespace:
            raise RefusedError(400, "Invalid input error: a namespace is needed")
        found = [
            row
            for row in self.store.rows(kind, parent=parent)
            if not self.multi_user or kind == "version" or row.get("namespace") == namespace
        ]
        for one in json.loads(query.get("filter") or "{}").get("predicates", []):
            wanted = one.get("string_value", one.get("stringValue"))
            exact = one["operation"] in ("EQUALS", 1)
            found = [
                row
                for row in found
                if (row[one["key"]] == wanted if exact else wanted in row[one["key"]])
            ]
        key, _, order = query.get("sort_by", "").partition(" ")
        if key:
            found.sort(key=lambda row: str(row[key]), reverse=order == "desc")
        start = int(query.get("page_token") or 0)
        size = int(query.get("page_size") or 20)
        page = found[start : start + size]
        more = {"next_page_token": str(start + size)} if len(found) > start + size else {}
        return {what: [_shown(kind, row) for row in page], "total_size": len(found), **more}

    def _get_healthz(self, request: Request) -> dict[str, Any]:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def _create_experiment(self, request: Request) -> dict[str, Any]:
        return self._add("experiment", request.body)

    def _list_experiments(self, request: Request) -> Any:
        return self._list("experiment", "experiments", request)

    def _create_pipeline(self, request: Request) -> dict[str, Any]:
        body = request.body
        return self._add("pipeline", {"display_name": body["name"], **body})

    def _list_pipelines(self, request: Request) -> Any:
        return self._list("pipeline", "pipelines", request)

    def _list_pipeline_versions(self, request: Request) -> Any:
        pipeline = request.path["pipeline_id"]
        self.store.get("pipeline", pipeline)
        return self._list("version", "pipeline_versions", request, parent=pipeline)

    def _upload_pipeline_version(self, request: Request) -> dict[str, Any]:
        pipeline = request.query["pipelineid"]
        self.store.get("pipeline", pipeline)
        spec, *platform = yaml.safe_load_all(request.body)
        name = request.query["name"]
        document = {
            "name": name,
            "display_name": request.query.get("display_name", name),
            "pipeline_id": pipeline,
            "pipeline_spec": checked_spec(
                {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
            ),
        }
        return self._add("version", document, parent=pipeline)

    def _upload_pipeline(self, request: Request) -> dict[str, Any]:
        name = request.query["name"]
        made = self._add("pipeline", {"name": name, "display_name": name})
        query = {"pipelineid": made["pipeline_id"], "name": name}
        self._upload_pipeline_version(Request(request.operation, {}, query, request.body))
        return made

    def _create_run(self, request: Request) -> dict[str, Any]:
        body = request.body
        spec = self._spec_of(body)
        check_parameters(spec, body.get("runtime_config", {}).get("parameters", {}))
        experiment = self.store.get("experiment", body.get("experiment_id", ""))
        return self._add(
            "run",
            {**body, "pipeline_spec": spec, "state": "PENDING"},
            namespace=experiment.get("namespace", ""),
        )

    def _get_run(self, request: Request) -> dict[str, Any]:
        return _shown("run", self.store.get("run", request.path["run_id"]))

    def _list_runs(self, request: Request) -> Any:
        return self._list("run", "runs", request)

    def _delete_run(self, request: Request) -> dict[str, Any]:
        self.store.remove("run", request.path["run_id"])
        return {}

    def _create_recurring_run(self, request: Request) -> dict[str, Any]:
        body = request.body
        check_parameters(self._spec_of(body), body.get("runtime_config", {}).get("parameters", {}))
        experiment = self.store.get("experiment", body.get("experiment_id", ""))
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise RefusedError(400, "Invalid input error: max_concurrency is not in 1 to 10")
        cron = body["trigger"]["cron_schedule"]["cron"]
        if len(cron.split()) != 6:
            raise RefusedError(400, f"Invalid input error: Schedule cron is not supported: {cron}")
        status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        return self._add(
            "schedule", {**body, "status": status}, namespace=experiment.get("namespace", "")
        )

    def _list_recurring_runs(self, request: Request) -> Any:
        return self._list("schedule", "recurringRuns", request)

    def _enable_recurring_run(self, request: Request) -> dict[str, Any]:
        self.store.change("schedule", request.path["recurring_run_id"], {"status": "ENABLED"})
        return {}

    def _disable_recurring_run(self, request: Request) -> dict[str, Any]:
        self.store.change("schedule", request.path["recurring_run_id"], {"status": "DISABLED"})
        return {}

    def _delete_recurring_run(self, request: Request) -> dict[str, Any]:
        self.store.remove("schedule", request.path["recurring_run_id"])
        return {}

    def _spec_of(self, body: Mapping[str, Any]) -> Any:
        reference = body.get("pipeline_version_reference")
        if (reference is None) == (body.get("pipeline_spec") is None):
            raise RefusedError(400, "Invalid input error: one of a spec and a version is needed")
        if reference is None:
            return checked_spec(body["pipeline_spec"])
        version = self.store.get("version", reference.get("pipeline_version_id", ""))
        if version["pipeline_id"] != reference.get("pipeline_id"):
            raise RefusedError(400, "Invalid input error: the version is of another pipeline")
        return version["pipeline_spec"]

    def _add(
        self, kind: str, document: Mapping[str, Any], *, parent: str = "", namespace: str = ""
    ) -> dict[str, Any]:
        made = {**document, ID[kind]: str(uuid.uuid4()), "created_at": _now()}
        if self.multi_user and kind != "version":
            made["namespace"] = namespace or document.get("namespace", "")
        self.store.add(kind, made, name=made.get("name", made["display_name"]), parent=parent)
        return _shown(kind, made)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: apart, the second waits for the first one's receipt.
    wbufsize = 1 << 16

    def handle_any(self) -> None:
        kfp: KfpServer = self.server.kfp  # type: ignore[attr-defined]
        with kfp.busy():
            self._handle(kfp)

    def _handle(self, kfp: KfpServer) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # The client was killed while it wrote.
            self.close_connection = True
            return
        path = urlsplit(self.path).path
        kfp.requests.append(f"{self.command} {path}")
        fault = kfp.faults.draw(self.command, path)
        if fault in ("stall", "late"):
            time.sleep(kfp.stall)
        status, answer = 200, {}
        if fault in ("429", "500", "503"):
            status, answer = int(fault), _error(int(fault), "injected")
        elif fault not in ("stall", "dropped"):
            try:
                answer = kfp.answer(self.command, self.path, self.headers, body)
            except RefusedError as refused:
                status, answer = refused.status, _error(refused.status, str(refused))
        if fault == "500 after":
            status, answer = 500, _error(500, "injected, after it was done")
        if fault == "taken":
            status, answer = 409, _error(409, "injected, another was faster")
        if fault == "stall after":
            time.sleep(kfp.stall)
        if fault in ("stall", "stall after", "late", "dropped", "dropped after"):
            self.close_connection = True
            return
        if kfp.login:
            self._send(200, "<!doctype html>", "text/html")
        else:
            self._send(status, json.dumps(answer), "application/json")

    do_GET = do_POST = do_DELETE = do_PATCH = handle_any  # noqa: N815 - the names it is called by

    def _send(self, status: int, answer: str, kind: str) -> None:
        content = answer.encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            # The client was killed.
            self.close_connection = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionResetError:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def _shown(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the API tells it; `parent`, and the `name` of most, are the store's own."""
    hidden = {"parent"} if kind in ("pipeline", "version") else {"parent", "name", "namespace"}
    if kind == "run" and "state" not in row:
        hidden = {*hidden, "state"}
    return {key: value for key, value in row.items() if key not in hidden}


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": message, "code": _CODES[status], "message": message, "details": []}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
