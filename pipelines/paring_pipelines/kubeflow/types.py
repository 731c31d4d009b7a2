"""Plain classes for Kubeflow's answers; only the client module knows its SDK's classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from paring_pipelines.kubeflow.json_objects import object_at

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


def run_of(result: Any) -> Run:
    """Return a `V2beta1Run` as a `Run`."""
    config = result.runtime_config
    details = result.run_details
    tasks = [_task_of(item) for item in (details.task_details if details else None) or ()]
    spec = result.pipeline_spec or {}
    state = _state(result.state)
    if state == "FAILED" and any(item.state == "CANCELING" for item in result.state_history or ()):
        state = "CANCELED"
    return Run(
        id=result.run_id,
        name=result.display_name,
        state=state,
        created=result.created_at,
        # Kubeflow tells of runs that go on that they ended in 1970.
        finished=result.finished_at if state in FINISHED else None,
        error=_message(result.error),
        pipeline=pipeline_name(spec),
        pipeline_root=(config.pipeline_root if config else None) or "",
        parameters=(config.parameters if config else None) or {},
        tasks=tuple(sorted(tasks, key=lambda item: item.name)),
        spec=spec,
        version=_version(result.pipeline_version_reference),
    )


def pipeline_name(spec: Mapping[str, Any]) -> str:
    """Return the name of the pipeline in a spec, "" if it has none."""
    pipeline = spec.get("pipeline_spec", spec)
    return str(object_at(pipeline, "pipelineInfo").get("name") or "")


def schedule_of(result: Any) -> Schedule:
    """Return a `V2beta1RecurringRun` as a `Schedule`."""
    trigger = result.trigger
    cron = trigger.cron_schedule if trigger else None
    return Schedule(
        id=result.recurring_run_id,
        name=result.display_name,
        description=result.description or "",
        enabled=result.status == "ENABLED",
        created=result.created_at,
        cron=(cron.cron if cron else None) or "",
    )


def _version(reference: Any) -> tuple[str, str] | None:
    """Return the ids of a pipeline and of its version, None unless both are known."""
    if not (reference and reference.pipeline_id and reference.pipeline_version_id):
        return None
    return reference.pipeline_id, reference.pipeline_version_id


def _task_of(result: Any) -> Task:
    state = _state(result.state)
    return Task(
        name=result.display_name or result.task_id,
        state=state,
        started=result.start_time,
        ended=result.end_time if state in FINISHED else None,
        error=_message(result.error),
    )


def _state(result: str | None) -> str:
    return "" if result in (None, "RUNTIME_STATE_UNSPECIFIED") else str(result)


def _message(error: Any) -> str:
    return str(error.message or "") if error else ""
