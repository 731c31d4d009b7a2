"""Spans of steps, as OpenTelemetry's own exporter sends them to a collector."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from paring.adapters.kfp import run_executor_input
from paring.artifacts import Model
from paring.errors import ModelError
from paring.step import Input, Output, step
from paring.system import logs, tracing

RUN = "4b5f7d1e-0000-4000-8000-000000000001"


@step
def spoil_model(model: Input[Model], spoiled: Output[Model], *, fail: bool = False) -> None:
    """Makes an empty model."""
    if fail:
        raise ModelError("no model", received=model.path)
    (spoiled.path / "weights").write_text("w")


class Collector:
    """Takes spans on loopback."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    item = Collector()
    url = f"http://127.0.0.1:{item.server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    yield item
    tracing.stop()
    item.close()


def _call(folder: Path, fail: bool = False, tolerate: bool = False) -> None:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "saved_model.pb").touch()
    target = folder / "p" / RUN / "spoil-model-int8" / "spoiled"
    target.parent.mkdir(parents=True, exist_ok=True)
    given = {
        "inputs": {
            "parameterValues": {"fail": fail},
            "artifacts": {"model": {"artifacts": [{"uri": str(source)}]}},
        },
        "outputs": {
            "artifacts": {"spoiled": {"artifacts": [{"uri": str(target)}]}},
            "outputFile": str(folder / "outputs.json"),
        },
    }
    run_executor_input(spoil_model, json.dumps(given), tolerate=tolerate)


def _attributes(span: Any) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


def test_the_steps_of_a_run_are_in_one_trace(collector: Collector, tmp_path: Path) -> None:
    _call(tmp_path)
    # As in another container.
    tracing.stop()
    _call(tmp_path, fail=True, tolerate=True)
    tracing.stop()
    first, second = collector.spans()
    assert first.trace_id == second.trace_id == bytes.fromhex(RUN.replace("-", ""))
    assert first.name == "spoil_model"
    assert _attributes(first) == {
        "paring.run": RUN,
        "paring.node": "spoil-model-int8",
        "paring.candidate": "int8",
        "paring.step": "spoil_model",
        "paring.version": "1",
        "paring.outcome": "made",
    }
    assert _attributes(second)["paring.outcome"] == "failed"
    (resource,) = {
        attribute.value.string_value
        for request in collector.received
        for span in request.resource_spans
        for attribute in span.resource.attributes
        if attribute.key == "service.name"
    }
    assert resource == "paring"


def test_what_ends_a_step_is_in_its_span(collector: Collector, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        _call(tmp_path, fail=True)
    tracing.stop()
    (span,) = collector.spans()
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert "no model" in span.status.message
    assert [event.name for event in span.events] == ["exception"]


def test_spans_within_spans_are_their_children(collector: Collector) -> None:
    with logs.about(run="local"), tracing.span("outer"), tracing.span("inner"):
        pass
    tracing.stop()
    inner, outer = collector.spans()
    assert (inner.name, inner.parent_span_id) == ("inner", outer.span_id)
    assert inner.trace_id == outer.trace_id


def test_without_an_endpoint_there_are_none(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    with tracing.span("any") as note:
        note(outcome="made")
    tracing.stop()
    assert collector.spans() == []
