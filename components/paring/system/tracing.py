"""OpenTelemetry spans, if the environment configures an exporter.

On with OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and the package
opentelemetry-exporter-otlp-proto-http (`paring[traces]`). All other OTEL_ variables are
OpenTelemetry's own. The steps of one run are in one trace, whose id follows from the run's,
so that containers that know nothing of each other agree on it.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paring.system import logs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Note = Callable[..., None]
"""Takes attributes by name: text, numbers or booleans."""

_providers: list["TracerProvider"] = []


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[Note]:
    """Time what is done until the end, and what it raises.

    Args:
        name: The span's.
        **attributes: The span's, besides those that `logs.about` knows.

    Yields:
        A function that adds attributes.
    """
    provider = _provider()
    if provider is None:
        yield lambda **_: None
        return
    about = {name: str(value) for name, value in logs.known().items()}
    result = {f"paring.{key}": value for key, value in {**about, **attributes}.items()}
    tracer = provider.get_tracer("paring")
    with tracer.start_as_current_span(
        name, context=_within(about.get("run", "")), attributes=result
    ) as item:
        yield lambda **more: item.set_attributes(
            {f"paring.{key}": value for key, value in more.items()}
        )


def stop() -> None:
    """Send the spans that are left, and read the environment again at the next span."""
    for provider in _providers:
        provider.shutdown()
    _providers.clear()


def _provider() -> "TracerProvider | None":
    if _providers:
        return _providers[0]
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        # Who set the variable may have meant others on this machine: work goes on.
        logs.failure("no traces", error=str(error), remedy="pip install 'paring[traces]'")
        return None
    resource = Resource.create(_service(os.environ))
    # It sends what is left when the process ends.
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _providers.append(provider)
    return provider


def _service(environment: Mapping[str, str]) -> dict[str, str]:
    return {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "paring"}


def _within(run: str) -> Any:
    """Return the context of the run's trace; None, for the current one, where no run is known."""
    from opentelemetry import trace

    current = trace.get_current_span().get_span_context()
    if not run or current.is_valid:
        return None
    digest = hashlib.sha256(run.encode()).digest()
    try:
        trace_id = uuid.UUID(run).int
    except ValueError:
        trace_id = int.from_bytes(digest[:16])
    parent = trace.SpanContext(
        trace_id=trace_id,
        span_id=int.from_bytes(digest[16:24]),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))
