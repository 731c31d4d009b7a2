"""A Kubeflow Pipelines API on loopback: stores what it receives, and checks each request.

It takes what `kfp_api` finds declared and nothing else. Pipelines, versions,
experiments, runs and recurring runs lie in an SQLite file, with the rules of the real
server: names of pipelines, versions and experiments are unique, those of runs and
recurring runs are not; times are given in whole seconds. Nothing is ever run; a test
says how a run's tasks went, and the server answers as Kubeflow 2.17 does about such a
run, see `kfp_workflow`.

Two of its answers are in no generated client: a run by the API's version v1beta1, which
alone has the workflow, and the log of a pod. The latter is 200 whatever happened, of no
declared type, and knows no way to follow a log.
"""

import email
import email.policy
import json
import random
import re
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
from tests.conformance.kfp_workflow import Went, Workflow

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14}


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
        slowness: The most seconds between the time that something is dated with and the
            moment from which it is listed.
        multi_user: Whether everything lies in a namespace.
        token: The bearer token that it asks for, "" for none.
        login: Whether it shows a page to log in on to all who ask.
        contents: What it answers in place of its own answer, by a regular expression for
            "METHOD PATH"; the request is carried out all the same.
        forbidden: Operations that this account may not do, such as `terminate_run`.
        workflows: Of the runs that it has started, by their ids.
        v1beta1: Whether it answers by that version of its API.
        pods_gone: Whether pods were deleted, so that logs come from the archive alone.
        certificate: A PEM file with its key and certificate, for https; None for http.
        address: Host and port that it listens on; port 0 for a free one.
        killed: Runs whose workflow and pods went with the recurring run that started them.
        violations: Requests that the API does not declare; a test expects none.
        requests: "METHOD PATH" of each.
        slowest: The longest time in seconds from a request's arrival until it was carried out.
        verbs: What an account must be allowed for these, where there are several users: a
            resource of pipelines.kubeflow.org and a verb.
    """

    file: Path
    faults: Faults = field(default_factory=Faults)
    stall: float = 0.5
    slowness: float = 0.0
    multi_user: bool = False
    token: str = ""
    login: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    workflows: dict[str, Workflow] = field(default_factory=dict)
    v1beta1: bool = True
    pods_gone: bool = False
    certificate: Path | None = None
    address: tuple[str, int] = ("127.0.0.1", 0)
    killed: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    slowest: float = 0.0
    verbs: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store = Store(self.file)
        self._idle = threading.Condition()
        self._working = 0
        self._arrival = threading.local()
        self._operations = declared_operations()
        self._http = ThreadingHTTPServer(self.address, _Handler)
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
        """URL of the server."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{self.address[0]}:{self._http.server_address[1]}"

    def runs(self) -> list[dict[str, Any]]:
        """Every run, the oldest first."""
        return self.store.rows("run")

    def schedules(self) -> list[dict[str, Any]]:
        """Every recurring run, the oldest first."""
        return self.store.rows("schedule")

    def finish(self, run_id: str, state: str = "SUCCEEDED", **more: Any) -> None:
        """Say how a run ended; `more` are other fields of a V2beta1Run."""
        self.store.change("run", run_id, {"state": state, "finished_at": _now(), **more})

    def play(
        self,
        run_id: str,
        went: Mapping[str, Went] | None = None,
        *,
        controller_retries: bool = True,
    ) -> Workflow:
        """Say how a run's tasks went, all others having succeeded; see `Workflow.play`.

        A run that is being canceled ends as failed, as Kubeflow reports it.
        """
        row = self.store.get("run", run_id)
        workflow = self.workflows[run_id]
        workflow.controller_retries = controller_retries
        workflow.play(went or {})
        state = workflow.phase.upper()
        canceled = any(item["state"] == "CANCELING" for item in row.get("state_history", ()))
        if canceled and state == "RUNNING":
            state = "CANCELING"
        ended = {} if state in ("RUNNING", "CANCELING") else {"finished_at": _now()}
        self._enter(run_id, state, **ended)
        return workflow

    def cancel(self, run_id: str) -> None:
        """Have a run canceled, by whomever; `play` then says how it ended.

        Raises:
            RefusedError: It has ended, or is being canceled.
        """
        if self.store.get("run", run_id)["state"] not in ("PENDING", "RUNNING", "PAUSED"):
            raise RefusedError(
                400, f"Invalid input error: Failed to terminate a run {run_id}. Row not found"
            )
        self._enter(run_id, "CANCELING")

    def start_scheduled(self, schedule_id: str) -> str:
        """Start a run as Kubeflow's controller does when the time has come; its id."""
        row = self.store.get("schedule", schedule_id)
        made = self._add(
            "run",
            {
                "display_name": f"{row['display_name']}-1700000000",
                "pipeline_version_reference": row["pipeline_version_reference"],
                "pipeline_spec": self._spec_of(row),
                "runtime_config": row["runtime_config"],
                "recurring_run_id": schedule_id,
                "state": "PENDING",
            },
            namespace=row.get("namespace", ""),
        )
        return str(made["run_id"])

    def _enter(self, run_id: str, state: str, **more: Any) -> None:
        """Bring a run into a state, which its history keeps."""
        history = self.store.get("run", run_id).get("state_history", [])
        if not history or history[-1]["state"] != state:
            history = [*history, {"update_time": _now(), "state": state}]
        self.store.change("run", run_id, {"state": state, "state_history": history, **more})

    def undeclared(self, method: str, target: str, headers: Any) -> tuple[str, str] | None:
        """Return the response to a request that the generated client does not declare.

        Returns:
            The content and its type; None for any other request.

        Raises:
            RefusedError: It says no.
        """
        path = urlsplit(target).path
        log = re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path)
        run = re.fullmatch(r"/apis/v1beta1/runs/([^/:]+)", path)
        if method != "GET" or not (log or run):
            return None
        self._authenticate(headers)
        if log:
            return self._log(*log.groups()), "text/plain; charset=utf-8"
        if not self.v1beta1:
            raise RefusedError(404, "Not Found")
        assert run is not None
        self.store.get("run", run.group(1))
        self.verbs.add(("runs", "get"))
        workflow = self.workflows.get(run.group(1))
        manifest = json.dumps(workflow.manifest()) if workflow else ""
        document = {
            "run": {"id": run.group(1)},
            "pipeline_runtime": {"workflow_manifest": manifest},
        }
        return json.dumps(document), "application/json"

    def _log(self, run_id: str, node: str) -> str:
        try:
            self.store.get("run", run_id)
            if run_id not in self.workflows:
                raise LookupError("Runtime workflow manifest cannot empty")
            return self.workflows[run_id].log(node, pods_gone=self.pods_gone)
        except (LookupError, RefusedError) as error:
            message = f"BadRequestError: Failed to read logs for run {run_id}: {error}"
            document = {"error_message": message, "error_details": f"{message}\nstack"}
            return json.dumps(document, separators=(",", ":"))

    def _authenticate(self, headers: Any) -> None:
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Request header error: there is no user identity header.")

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> dict[str, Any]:
        """Return the API's response to a request.

        Raises:
            RefusedError: It says no.
        """
        self._authenticate(headers)
        parts = urlsplit(target)
        for operation in self._operations:
            result = operation.match(method, parts.path)
            if result is not None:
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
        named = operation.name.rpartition("_service_")[2]
        if named != "get_healthz":
            self.verbs.add(_checked(named))
        if named in self.forbidden:
            raise RefusedError(403, f"PermissionDenied: User 'ann' is not authorized to {named}")
        handle: Callable[[Request], dict[str, Any]] | None = getattr(self, f"_{named}", None)
        if handle is None:
            raise RefusedError(501, f"{operation.name} is not there")
        path = {name: unquote(value) for name, value in result.items()}
        # What is made is dated first, then written to Kubernetes, and only then listed.
        self._arrival.date = _now()
        if self.slowness and method == "POST":
            time.sleep(random.uniform(0, self.slowness))
        with self.store.lock:
            reply = handle(Request(operation, path, query, content))
        try:
            check(operation.response, reply, operation.response)
        except SchemaError as error:
            self.violations.append(f"the answer to {method} {target}: {error}")
        return reply

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
        for item in given.get("predicates", []):
            # JSON's mapping of protocol buffers takes both spellings, and numbers of enums.
            if "stringValue" in item:
                item["string_value"] = item.pop("stringValue")
            if item.get("operation") == 1:
                item["operation"] = "EQUALS"
        check("V2beta1Filter", given, "filter")

    def _list(self, kind: str, what: str, request: Request, parent: str | None = None) -> Any:
        query = request.query
        namespace = query.get("namespace", "")
        if self.multi_user and kind in ("run", "schedule", "experiment") and not namespace:
            raise RefusedError(400, "Invalid input error: a namespace is needed")
        result = [
            row
            for row in self.store.rows(kind, parent=parent)
            if not self.multi_user or kind == "version" or row.get("namespace") == namespace
        ]
        for item in json.loads(query.get("filter") or "{}").get("predicates", []):
            wanted = item.get("string_value", item.get("stringValue"))
            exact = item["operation"] in ("EQUALS", 1)
            result = [
                row
                for row in result
                if (row[item["key"]] == wanted if exact else wanted in row[item["key"]])
            ]
        key, _, order = query.get("sort_by", "").partition(" ")
        if key:
            result.sort(key=lambda row: str(row[key]), reverse=order == "desc")
        start = int(query.get("page_token") or 0)
        size = int(query.get("page_size") or 20)
        page = result[start : start + size]
        more = {"next_page_token": str(start + size)} if len(result) > start + size else {}
        shown = [self._run_of(row) if kind == "run" else _shown(kind, row) for row in page]
        return {what: shown, "total_size": len(result), **more}

    def _run_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A run as the API tells it, with the rows of its tasks."""
        result = _shown("run", row)
        if row["run_id"] in self.workflows:
            details = self.workflows[row["run_id"]].task_details(row["run_id"])
            result |= {"run_details": {"task_details": details}} if details else {}
        return result

    def _get_healthz(self, request: Request) -> dict[str, Any]:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def _create_experiment(self, request: Request) -> dict[str, Any]:
        return self._add("experiment", request.body)

    def _list_experiments(self, request: Request) -> Any:
        return self._list("experiment", "experiments", request)

    def _delete_experiment(self, request: Request) -> dict[str, Any]:
        self.store.remove("experiment", request.path["experiment_id"])
        return {}

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
        return self._run_of(self.store.get("run", request.path["run_id"]))

    def _terminate_run(self, request: Request) -> dict[str, Any]:
        self.cancel(request.path["run_id"])
        return {}

    def _get_pipeline_version(self, request: Request) -> dict[str, Any]:
        return _shown("version", self.store.get("version", request.path["pipeline_version_id"]))

    def _get_recurring_run(self, request: Request) -> dict[str, Any]:
        return _shown("schedule", self.store.get("schedule", request.path["recurring_run_id"]))

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
        schedule_id = request.path["recurring_run_id"]
        self.store.remove("schedule", schedule_id)
        if request.query.get("propagation_policy") != "ORPHAN":
            # Kubernetes deletes what belongs to a thing that is deleted; the runs' rows stay.
            rows = self.store.rows("run")
            self.killed |= {r["run_id"] for r in rows if r.get("recurring_run_id") == schedule_id}
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
        made = {
            **document,
            ID[kind]: str(uuid.uuid4()),
            "created_at": getattr(self._arrival, "date", _now()),
        }
        if self.multi_user and kind != "version":
            made["namespace"] = namespace or document.get("namespace", "")
        self.store.add(kind, made, name=made.get("name", made["display_name"]), parent=parent)
        if kind == "run":
            name = f"{made['display_name'][:20]}-{made['run_id'][:5]}"
            start = datetime.fromisoformat(made["created_at"])
            self.workflows[made["run_id"]] = Workflow(name, made["pipeline_spec"], start)
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
        arrival = time.monotonic()
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
        status, content, kind = 200, "{}", "application/json"
        if fault in ("429", "500", "503"):
            status, content = int(fault), _error(int(fault), "injected")
        elif fault not in ("stall", "dropped"):
            try:
                result = kfp.undeclared(self.command, self.path, self.headers)
                if result is None:
                    content = json.dumps(kfp.answer(self.command, self.path, self.headers, body))
                else:
                    content, kind = result
            except RefusedError as refused:
                status, content = refused.status, _error(refused.status, str(refused))
            kfp.slowest = max(kfp.slowest, time.monotonic() - arrival)
        if fault == "500 after":
            status, content = 500, _error(500, "injected, after it was done")
        if fault == "taken":
            status, content = 409, _error(409, "injected, another was faster")
        if fault == "stall after":
            time.sleep(kfp.stall)
        if fault in ("stall", "stall after", "late", "dropped", "dropped after"):
            self.close_connection = True
            return
        written = content.encode()
        for pattern, other in kfp.contents.items():
            if re.search(pattern, f"{self.command} {path}"):
                written = other
        if fault == "cut":
            written = written[: len(written) // 2]
        if kfp.login:
            self._send(200, b"<!doctype html>", "text/html")
        else:
            self._send(status, written, kind)

    do_GET = do_POST = do_DELETE = do_PATCH = handle_any  # noqa: N815 - the names it is called by

    def _send(self, status: int, content: bytes, kind: str) -> None:
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


def _checked(operation: str) -> tuple[str, str]:
    """Return the resource and verb that the server checks; none for the log of a pod."""
    verb, _, subject = operation.partition("_")
    for word, resource in (
        ("pipeline", "pipelines"),
        ("experiment", "experiments"),
        ("recurring", "jobs"),
        ("run", "runs"),
    ):
        if subject.startswith(word):
            return resource, "create" if verb == "upload" else verb
    raise ValueError(f"it is not known what {operation} needs")


def _shown(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the API tells it; `parent`, and the `name` of most, are the store's own."""
    hidden = {"parent"} if kind in ("pipeline", "version") else {"parent", "name", "namespace"}
    if kind == "run" and row.get("pipeline_version_reference"):
        # One of the two is returned, never both.
        hidden = {*hidden, "pipeline_spec"}
    return {key: value for key, value in row.items() if key not in hidden}


def _error(status: int, message: str) -> str:
    document = {"error": message, "code": _CODES[status], "message": message, "details": []}
    return json.dumps(document)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
