"""One recurring run for one name: `paring schedule`.

Kubeflow can't change a recurring run, only make and delete them. So a change makes
the new one first, enabled, and then disables and deletes what it replaces: should this
end in between, two are enabled, and runs are started twice rather than never. The same
command, given again, finds the new one by its digest and takes the rest away.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paring.errors import ClusterError
from paring_pipelines.kubeflow.idempotency import create_once
from paring_pipelines.kubeflow.package import DIGEST, copied
from paring_pipelines.kubeflow.submit import Plan
from paring_pipelines.kubeflow.types import SCHEDULE_MARK, Schedule

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.client import Kubeflow

EACH_TIME = "[[ScheduledTime]]"
"""Kubeflow puts the time of each run in its place. As the source's digest it makes
every task miss the cache, since nobody knows what will lie at the source by then."""


@dataclass(frozen=True)
class Timing:
    """When runs start.

    Attributes:
        cron: Six fields, in the time zone of Kubeflow's controller, UTC by default.
        catch_up: Whether times that were missed are made up for.
        max_concurrency: Runs that go on at once, 1 to 10.
    """

    cron: str
    catch_up: bool = False
    max_concurrency: int = 1


@dataclass(frozen=True)
class Scheduled:
    """Result of scheduling a package.

    Attributes:
        schedule: The schedule that is enabled now.
        version: The name of the pipeline's version.
        new: Whether this call created the schedule.
        replaced: Number of schedules that it replaced.
    """

    schedule: Schedule
    version: str
    new: bool
    replaced: int


def schedule(
    kubeflow: "Kubeflow",
    name: str,
    *,
    plan: Plan,
    timing: Timing,
    model: str,
    examples: str,
    digest: str = EACH_TIME,
) -> Scheduled:
    """Let exactly one recurring run of this name be there, and be this one.

    Args:
        kubeflow: Where.
        name: The pipeline's and the recurring run's.
        plan: What each run does; `caching` and `attempt` are of no account.
        timing: When they start.
        model: Where the model lies, as the cluster sees it.
        examples: Where the examples lie.
        digest: The source's, the same for each run; see `EACH_TIME`.

    Raises:
        ClusterError: Kubeflow can't be asked or refused, or a recurring run of this
            name is not Paring's.
    """
    sources = {"model_uri": model, "examples_uri": examples, DIGEST: digest}
    parameters = plan.package.parameters(plan.parameters | sources)
    version = f"{name}-{plan.package.digest()[:12]}"
    pipeline_id = kubeflow.pipeline(name, "Optimizes a trained model; made by paring schedule.")
    with tempfile.TemporaryDirectory() as folder:
        file = copied(plan.package, Path(folder))
        version_id = kubeflow.version(pipeline_id, version, file)

    wanted = [
        version_id,
        parameters,
        [timing.cron, timing.catch_up, timing.max_concurrency],
        [plan.experiment, plan.pipeline_root, plan.service_account],
    ]
    text = json.dumps(wanted, sort_keys=True)
    description = f"{SCHEDULE_MARK}{hashlib.sha256(text.encode()).hexdigest()}"
    replaced: set[str] = set()

    def supersede(first: Schedule) -> list[Schedule]:
        if not first.enabled:
            kubeflow.enable_schedule(first)
        others = [item for item in _ours(kubeflow, name) if item.id != first.id]
        replaced.update(item.id for item in others if item.description != description)
        return others

    made = create_once(
        lambda: [item for item in _ours(kubeflow, name) if item.description == description],
        lambda: kubeflow.create_schedule(
            name,
            description,
            experiment=plan.experiment,
            pipeline_id=pipeline_id,
            version_id=version_id,
            cron=timing.cron,
            catch_up=timing.catch_up,
            max_concurrency=timing.max_concurrency,
            parameters=parameters,
            pipeline_root=plan.pipeline_root,
            service_account=plan.service_account,
        ),
        kubeflow.remove_schedule,
        lock=lambda: kubeflow.locked(f"schedule {name}"),
        waits=kubeflow.waits(),
        settle=kubeflow.settings.timeout,
        supersede=supersede,
    )
    return Scheduled(made.first, version, made.new, len(replaced))


def _ours(kubeflow: "Kubeflow", name: str) -> list[Schedule]:
    result = kubeflow.schedules_named(name)
    for item in result:
        if not item.ours:
            raise ClusterError(
                f"a recurring run of the name {name!r} is there that paring did not make",
                received=f"{item.id}, {item.description or 'without a description'}",
                remedy="give --name another name, or delete that one",
            )
    return result
