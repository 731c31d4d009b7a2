"""Metrics of `paring watch` about itself, for Prometheus."""

from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

from paring.storage import written_beside

_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


class WatchMetrics:
    """Counts and times of one watcher, from its start.

    Attributes:
        registry: What Prometheus reads.
        finished: Outputs below the prefix.
        waiting: Those of them that have no run yet.
        oldest: Seconds since the oldest of these was finished; 0 for none.
        submissions: Outputs that got their run from this watcher.
        failures: Outputs that could not be submitted when they were tried.
        lag: Seconds from an output's completion to its run's submission.
        last_look: When the prefix was last looked through, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.finished = self._gauge("finished_outputs", "Finished outputs below the prefix.")
        self.waiting = self._gauge("waiting_outputs", "Finished outputs without a run.")
        self.oldest = self._gauge(
            "oldest_waiting_seconds", "Since the oldest output without a run was finished."
        )
        self.last_look = self._gauge(
            "last_look_timestamp_seconds", "When the prefix was last looked through."
        )
        self.submissions = Counter(
            "paring_watch_submissions",
            "Outputs that got their run from this watcher.",
            registry=self.registry,
        )
        self.failures = Counter(
            "paring_watch_failures",
            "Outputs that could not be submitted when they were tried.",
            registry=self.registry,
        )
        self.lag = Histogram(
            "paring_watch_lag_seconds",
            "From an output's completion to its run's submission.",
            registry=self.registry,
            buckets=_BUCKETS,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"paring_watch_{name}", text, registry=self.registry)

    def serve(self, port: int) -> int:
        """Serve the metrics on `port` of every interface, 0 for a free one; return the port."""
        server, _ = start_http_server(port, registry=self.registry)
        return int(server.server_port)

    def write(self, file: Path) -> None:
        """Write the text that `serve` would answer, whole or not at all.

        Raises:
            OutputError: The file can't be written.
        """
        with written_beside(file) as staged:
            staged.write_bytes(generate_latest(self.registry))
            staged.replace(file)
