"""What Paring asks of Kubeflow Pipelines, through the API client of its SDK.

The SDK's own `kfp.Client` waits for answers without end, prints, and asks a question
before it is asked one; so the API is called as it does, with time-outs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api as api

from paring.errors import ParameterError
from paring_pipelines.cluster.answers import Run, Schedule, run_of, schedule_of
from paring_pipelines.cluster.asking import Asking
from paring_pipelines.cluster.connection import Connection, pod_namespace
from paring_pipelines.cluster.once import Made, make_once
from paring_pipelines.cluster.refusals import AbsentError

T = TypeVar("T")

_PAGE = 100


class Kubeflow:
    """One Kubeflow Pipelines.

    Attributes:
        settings: How it is asked.
    """

    def __init__(self, settings: Connection) -> None:
        self.settings = settings
        self._asking = Asking(settings)
        client = self._asking.client
        self._runs = api.RunServiceApi(client)
        self._schedules = api.RecurringRunServiceApi(client)
        self._experiments = api.ExperimentServiceApi(client)
        self._pipelines = api.PipelineServiceApi(client)
        self._uploads = api.PipelineUploadServiceApi(client)
        self._namespace: str | None = settings.namespace or None

    def run(self, run_id: str) -> Run:
        """The run of this id, with its tasks.

        Raises:
            ClusterError: There is none, or Kubeflow can't be asked.
        """
        return run_of(self._asking.ask(self._runs.run_service_get_run, run_id))

    def runs(self, limit: int = 20) -> list[Run]:
        """At most so many runs, the newest first."""
        listed = self._listed(
            self._runs.run_service_list_runs,
            "runs",
            sort_by="created_at desc",
            limit=limit,
            **self._within(),
        )
        return [run_of(one) for one in listed]

    def runs_named(self, name: str) -> list[Run]:
        """Every run of exactly this name, the oldest first."""
        listed = self._listed(
            self._runs.run_service_list_runs,
            "runs",
            sort_by="created_at",
            filter=_named(name),
            **self._within(),
        )
        return _oldest_first([run_of(one) for one in listed], name)

    def run_once(
        self,
        name: str,
        *,
        experiment: str,
        spec: dict[str, Any],
        parameters: dict[str, Any],
        pipeline_root: str = "",
        service_account: str = "",
        caching: bool = True,
        may_ask: Callable[[], None] = lambda: None,
    ) -> Made[Run]:
        """The first run of this name, which is started if there is none.

        Args:
            name: The run's display name.
            experiment: The experiment's; made if there is none.
            spec: The pipeline, and its platform's part if it has one.
            parameters: The pipeline's.
            pipeline_root: The URI that artifacts lie below; "" for Kubeflow's default.
            service_account: Of the pods; "" for Kubeflow's default.
            caching: Whether tasks may take results of earlier runs.
            may_ask: Called before each request that starts one; see `make_once`.

        Raises:
            ClusterError: Kubeflow can't be asked, or refused.
        """
        body = api.V2beta1Run(
            display_name=name,
            pipeline_spec=spec if caching else _uncached(spec),
            runtime_config=_runtime(parameters, pipeline_root),
            service_account=service_account or None,
        )

        create = self._runs.run_service_create_run

        def prepare() -> None:
            body.experiment_id = body.experiment_id or self.experiment(experiment)
            # At the very last, since all that comes before takes time.
            may_ask()

        return make_once(
            lambda: self.runs_named(name),
            lambda: run_of(self._asking.ask(create, body, again=False)),
            lambda run: self._remove(self._runs.run_service_delete_run, run.id),
            waits=self.waits(),
            settle=self.settings.timeout,
            may_ask=prepare,
        )

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, which is made if there is none."""
        body = api.V2beta1Experiment(display_name=name, namespace=self.namespace or None)
        return self._identified(
            self._experiments.experiment_service_list_experiments,
            "experiments",
            "experiment_id",
            name,
            lambda: self._asking.ask(
                self._experiments.experiment_service_create_experiment, body, again=False
            ),
            **self._within(),
        )

    def pipeline(self, name: str, description: str = "") -> str:
        """The id of the pipeline of this name, which is made if there is none."""
        body = api.V2beta1Pipeline(
            name=name,
            display_name=name,
            description=description or None,
            namespace=self.namespace or None,
        )
        return self._identified(
            self._pipelines.pipeline_service_list_pipelines,
            "pipelines",
            "pipeline_id",
            name,
            lambda: self._asking.ask(
                self._pipelines.pipeline_service_create_pipeline, body, again=False
            ),
            **self._within(),
        )

    def version(self, pipeline_id: str, name: str, package: Path) -> str:
        """The id of the version of this name, which is uploaded if there is none.

        Args:
            pipeline_id: Whose version it is.
            name: The version's.
            package: The compiled pipeline, a file that ends in .yaml.
        """
        return self._identified(
            self._pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            "pipeline_version_id",
            name,
            lambda: self._asking.ask(
                self._uploads.upload_pipeline_version,
                str(package),
                name=name,
                display_name=name,
                pipelineid=pipeline_id,
                again=False,
            ),
            pipeline_id=pipeline_id,
        )

    def schedules_named(self, name: str) -> list[Schedule]:
        """Every recurring run of exactly this name, the oldest first."""
        listed = self._listed(
            self._schedules.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            sort_by="created_at",
            filter=_named(name),
            **self._within(),
        )
        return _oldest_first([schedule_of(one) for one in listed], name)

    def create_schedule(
        self,
        name: str,
        description: str,
        *,
        experiment: str,
        pipeline_id: str,
        version_id: str,
        cron: str,
        catch_up: bool,
        max_concurrency: int,
        parameters: dict[str, Any],
        pipeline_root: str = "",
        service_account: str = "",
    ) -> Schedule:
        """Make a recurring run, enabled; nothing looks whether there is one.

        Raises:
            UnansweredError: It may have been made, or not.
            ClusterError: Kubeflow refused.
        """
        body = api.V2beta1RecurringRun(
            display_name=name,
            description=description,
            experiment_id=self.experiment(experiment),
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version_id
            ),
            runtime_config=_runtime(parameters, pipeline_root),
            service_account=service_account or None,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            # A 64-bit number, which JSON carries as text.
            max_concurrency=str(max_concurrency),
            no_catchup=not catch_up,
            mode="ENABLE",
        )
        create = self._schedules.recurring_run_service_create_recurring_run
        return schedule_of(self._asking.ask(create, body, again=False))

    def enable_schedule(self, schedule: Schedule) -> None:
        """Let it start runs."""
        self._asking.ask(self._schedules.recurring_run_service_enable_recurring_run, schedule.id)

    def remove_schedule(self, schedule: Schedule) -> None:
        """Stop it, then take it away; it may be gone already."""
        self._remove(self._schedules.recurring_run_service_disable_recurring_run, schedule.id)
        self._remove(self._schedules.recurring_run_service_delete_recurring_run, schedule.id)

    def waits(self) -> Iterator[float]:
        """Seconds before each further attempt at something, growing and spread."""
        return self._asking.waits()

    @property
    def namespace(self) -> str:
        """The user's namespace; "" where Kubeflow has one user for all.

        Raises:
            ParameterError: Kubeflow has several users, and none was named.
        """
        if self._namespace is None:
            healthz = api.HealthzServiceApi(self._asking.client).healthz_service_get_healthz
            several = bool(self._asking.ask(healthz).multi_user)
            self._namespace = pod_namespace() if several else ""
            if several and not self._namespace:
                raise ParameterError(
                    f"{self.settings.host} has several users, each with a namespace",
                    remedy="give --namespace or set KFP_NAMESPACE",
                )
        return self._namespace

    def _within(self) -> dict[str, Any]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _identified(
        self,
        listing: Callable[..., Any],
        what: str,
        key: str,
        name: str,
        make: Callable[[], Any],
        **within: Any,
    ) -> str:
        """The id of what has a unique name."""

        def find() -> list[_Id]:
            found = self._listed(listing, what, filter=_named(name), **within)
            # Newer servers know a name besides the one that is shown.
            return [
                _Id(getattr(one, key))
                for one in found
                if name in (one.display_name, getattr(one, "name", None))
            ][:1]

        made = make_once(
            find,
            lambda: _Id(getattr(make(), key)),
            lambda one: None,
            waits=self.waits(),
            # Its name is taken or it is not: a second one can't come of it.
            settle=0.0,
        )
        return made.first.id

    def _listed(
        self, listing: Callable[..., Any], what: str, *, limit: int | None = None, **named: Any
    ) -> list[Any]:
        """All pages of a listing, or so many of its entries."""
        found: list[Any] = []
        token = ""
        while True:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            given = {key: value for key, value in named.items() if value is not None}
            page = self._asking.ask(listing, page_size=size, page_token=token, **given)
            found += getattr(page, what) or []
            token = page.next_page_token or ""
            if not token or (limit is not None and len(found) >= limit):
                return found

    def _remove(self, function: Callable[..., Any], identity: str) -> None:
        try:
            self._asking.ask(function, identity)
        except AbsentError:
            # Another took it away, or an attempt that was not answered did.
            return


class _Id:
    def __init__(self, identity: str) -> None:
        self.id = identity


def _runtime(parameters: dict[str, Any], pipeline_root: str) -> Any:
    return api.V2beta1RuntimeConfig(parameters=parameters, pipeline_root=pipeline_root or None)


def _uncached(spec: dict[str, Any]) -> dict[str, Any]:
    """The pipeline with caching off for each of its tasks."""
    changed: dict[str, Any] = json.loads(json.dumps(spec))
    pipeline = changed.get("pipeline_spec", changed)
    for task in pipeline["root"]["dag"]["tasks"].values():
        task["cachingOptions"] = {}
    return changed


def _named(name: str) -> str:
    """A filter by name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    return json.dumps({"predicates": [predicate]})


Dated = TypeVar("Dated", Run, Schedule)


def _oldest_first(found: Sequence[Dated], name: str) -> list[Dated]:
    # What is not first may be taken away: never trust a filter alone.
    same = [one for one in found if one.name == name]
    return sorted(same, key=lambda one: (one.created.timestamp() if one.created else 0.0, one.id))
