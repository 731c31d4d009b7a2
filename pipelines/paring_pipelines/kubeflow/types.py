"""Plain classes for Kubeflow's answers; only the client module knows its SDK's classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""The states that a run does not leave."""


@dataclass(frozen=True)
class Task:
    """One task of a run.

    Attributes:
        name: Its display name: of a node, of its driver or of an attempt at it.
        state: Such as RUNNING or SUCCEEDED; "" before it is known.
        started: When it did, None if it has not.
        ended: When it did, None if it has not.
        error: What Kubeflow says went wrong, "" for nothing.
    """

    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    error: str


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        id: Made by Kubeflow.
        name: Its display name; made by Paring, see `paring_pipelines.kubeflow.submit`.
        state: Such as PENDING, RUNNING, SUCCEEDED, FAILED or CANCELED; "" before it is
            known. Kubeflow reports a canceled run as FAILED in the end; here it is CANCELED
            where its history says so.
        created: When it was submitted.
        finished: When it ended, None if it has not.
        error: What Kubeflow says went wrong, "" for nothing.
        pipeline: The pipeline's name as its package has it; "" where it is not reported.
        pipeline_root: The URI that its artifacts lie below; "" for Kubeflow's default.
        parameters: As they were given.
        tasks: What Kubeflow calls tasks, about three for each node, in the order of their
            names; see `paring_pipelines.kubeflow.progress`.
        spec: The pipeline that it runs; empty if it runs a version of one.
        version: Ids of the pipeline and of its version; empty if it has a spec of its own.
    """

    id: str
    name: str
    state: str
    created: datetime | None
    finished: datetime | None
    error: str
    pipeline: str
    pipeline_root: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict, repr=False)
    version: tuple[str, str] | None = None


SCHEDULE_MARK = "paring schedule sha256:"
"""Begins the description of recurring runs that `paring schedule` made."""


@dataclass(frozen=True)
class Schedule:
    """A recurring run.

    Attributes:
        id: Made by Kubeflow.
        name: Its display name; several may have the same.
        description: Free text.
        enabled: Whether it starts runs.
        created: When it was made.
        cron: Its six fields, "" for one of another kind.
    """

    id: str
    name: str
    description: str
    enabled: bool
    created: datetime | None
    cron: str

    @property
    def ours(self) -> bool:
        """True if `paring schedule` created the schedule."""
        return self.description.startswith(SCHEDULE_MARK)


def run_of(told: Any) -> Run:
    """Return a `V2beta1Run` as a `Run`."""
    config = told.runtime_config
    details = told.run_details
    tasks = [_task_of(one) for one in (details.task_details if details else None) or ()]
    spec = told.pipeline_spec or {}
    version = told.pipeline_version_reference
    state = _state(told.state)
    if state == "FAILED" and any(one.state == "CANCELING" for one in told.state_history or ()):
        state = "CANCELED"
    return Run(
        id=told.run_id,
        name=told.display_name,
        state=state,
        created=told.created_at,
        # Kubeflow tells of runs that go on that they ended in 1970.
        finished=told.finished_at if state in FINISHED else None,
        error=_message(told.error),
        pipeline=pipeline_name(spec),
        pipeline_root=(config.pipeline_root if config else None) or "",
        parameters=(config.parameters if config else None) or {},
        tasks=tuple(sorted(tasks, key=lambda one: one.name)),
        spec=spec,
        version=(version.pipeline_id, version.pipeline_version_id) if version else None,
    )


def pipeline_name(spec: Mapping[str, Any]) -> str:
    """Return the name of the pipeline in a spec, "" if it has none."""
    name = spec.get("pipeline_spec", spec).get("pipelineInfo", {}).get("name", "")
    return str(name)


def schedule_of(told: Any) -> Schedule:
    """Return a `V2beta1RecurringRun` as a `Schedule`."""
    trigger = told.trigger
    cron = trigger.cron_schedule if trigger else None
    return Schedule(
        id=told.recurring_run_id,
        name=told.display_name,
        description=told.description or "",
        enabled=told.status == "ENABLED",
        created=told.created_at,
        cron=(cron.cron if cron else None) or "",
    )


def _task_of(told: Any) -> Task:
    state = _state(told.state)
    return Task(
        name=told.display_name or told.task_id,
        state=state,
        started=told.start_time,
        ended=told.end_time if state in FINISHED else None,
        error=_message(told.error),
    )


def _state(told: str | None) -> str:
    return "" if told in (None, "RUNTIME_STATE_UNSPECIFIED") else str(told)


def _message(error: Any) -> str:
    return str(error.message or "") if error else ""
