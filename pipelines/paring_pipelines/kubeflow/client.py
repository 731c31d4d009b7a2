"""Client of Kubeflow Pipelines, on the API client of its SDK.

The SDK's own `kfp.Client` waits for answers without end, prints, and asks a question
before it is asked one; so the API is called as it does, with time-outs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api as api

from paring.errors import ParameterError
from paring_pipelines.kubeflow.connection import Connection, pod_namespace
from paring_pipelines.kubeflow.errors import InvalidAnswerError, NotFoundError, RefusedError
from paring_pipelines.kubeflow.idempotency import Made, create_once, find_or_create
from paring_pipelines.kubeflow.json_objects import InvalidContentError, object_at, read_object
from paring_pipelines.kubeflow.locks import Lock, Locks
from paring_pipelines.kubeflow.requests import Asking
from paring_pipelines.kubeflow.types import Run, Schedule, run_of, schedule_of

T = TypeVar("T")

_PAGE = 100

_LOG = "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
_LOG_ERROR = '{"error_message"'


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
        self._locks = Locks(
            self._asking, self._create_experiment, self._experiments_named, self._delete_experiment
        )

    def run(self, run_id: str) -> Run:
        """Return the run of this id, with its tasks.

        Raises:
            ClusterError: There is none, or Kubeflow can't be asked.
        """
        return run_of(self._asking.ask(self._runs.run_service_get_run, run_id))

    def manifest(self, run_id: str) -> dict[str, Any] | None:
        """Return the Argo Workflow of a run, as it was last reported.

        It is read by the API's version v1beta1; the later ones don't have it.

        Returns:
            None if Kubeflow does not give it, or has none yet, or none that is an object.

        Raises:
            ClusterError: Kubeflow can't be reached.
        """
        try:
            document = self._asking.read_object("/apis/v1beta1/runs/{run_id}", run_id=run_id)
        except (RefusedError, InvalidAnswerError):
            return None
        text = object_at(document, "pipeline_runtime").get("workflow_manifest")
        try:
            manifest = read_object(text if isinstance(text, str) else "")
        except InvalidContentError:
            return None
        # Before Argo has taken it up, it may have none.
        name = object_at(manifest, "metadata").get("name")
        return manifest if name and isinstance(name, str) else None

    def log(self, run_id: str, pod: str) -> str:
        """Return what the main container of a pod has written so far.

        Kubeflow reads it from the pod, and from Argo's archive where that is gone.

        Args:
            run_id: The run's.
            pod: The pod's name.

        Raises:
            NotFoundError: There is no log of this pod.
            ClusterError: Kubeflow can't be reached, or refused.
        """
        content = self._asking.read(_LOG, run_id=run_id, pod=pod)
        text = content.decode("utf-8", errors="replace")
        # Kubeflow answers 200 before it looks, and appends to the log what went wrong.
        start = text.rfind(_LOG_ERROR)
        if start >= 0 and not text[:start].strip():
            try:
                message = str(json.loads(text[start:])["error_message"])
            except (KeyError, ValueError):
                return text
            raise NotFoundError(
                f"Kubeflow Pipelines at {self.settings.host} has no log of this pod",
                received=f"{pod}: {' '.join(message.split())[:300]}",
                remedy="look for it in the artifact store",
            )
        return text

    def cancel(self, run_id: str) -> None:
        """Have Kubeflow end a run and its pods.

        Raises:
            ClusterError: There is none, it has ended, or Kubeflow can't be asked.
        """
        self._asking.ask(self._runs.run_service_terminate_run, run_id)

    def pipeline_spec(self, run: Run) -> Mapping[str, Any]:
        """Return the pipeline that a run runs, its own or that of a version.

        Raises:
            ClusterError: Kubeflow can't be asked, or the version was deleted.
        """
        if run.version is None:
            return run.spec
        result = self._asking.ask(
            self._pipelines.pipeline_service_get_pipeline_version, *run.version
        )
        spec: Mapping[str, Any] = result.pipeline_spec or {}
        return spec

    def schedules(self) -> list[Schedule]:
        """Return every recurring run, the newest first."""
        listed = self._listed(
            self._schedules.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            sort_by="created_at desc",
            **self._within(),
        )
        return [schedule_of(item) for item in listed]

    def disable_schedule(self, schedule: Schedule) -> None:
        """Keep it from starting runs."""
        self._asking.ask(self._schedules.recurring_run_service_disable_recurring_run, schedule.id)

    def runs(self, limit: int = 20) -> list[Run]:
        """Return at most so many runs, the newest first."""
        listed = self._listed(
            self._runs.run_service_list_runs,
            "runs",
            sort_by="created_at desc",
            limit=limit,
            **self._within(),
        )
        return [run_of(item) for item in listed]

    def runs_named(self, name: str) -> list[Run]:
        """Return every run of exactly this name, the oldest first."""
        listed = self._listed(
            self._runs.run_service_list_runs,
            "runs",
            sort_by="created_at",
            filter=_named(name),
            **self._within(),
        )
        return _oldest_first([run_of(item) for item in listed], name)

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
        wait: float | None = None,
        may_create: Callable[[], None] = lambda: None,
    ) -> Made[Run]:
        """Return the run of this name, and start it if there is none.

        The run that is returned stays: whoever else starts one of this name meanwhile
        gets the same.

        Args:
            name: The run's display name.
            experiment: The experiment's; made if there is none.
            spec: The pipeline, and its platform's part if it has one.
            parameters: The pipeline's.
            pipeline_root: The URI that artifacts lie below; "" for Kubeflow's default.
            service_account: Of the pods; "" for Kubeflow's default.
            caching: Whether tasks may take results of earlier runs.
            wait: Seconds to wait for another client that is starting it; until it has, or
                was killed, if not given.
            may_create: Called before each request that starts one; see `create_once`.

        Raises:
            LockHeldError: Another client is starting it.
            ClusterError: Kubeflow can't be reached, or refused.
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
            may_create()

        return create_once(
            lambda: self.runs_named(name),
            lambda: run_of(self._asking.ask(create, body, again=False)),
            self.remove_run,
            lock=lambda: self.locked(name, wait),
            waits=self.waits(),
            settle=self.settings.timeout,
            may_create=prepare,
        )

    def settled_run(self, name: str, wait: float | None = None) -> Run | None:
        """Return the run of this name that stays; None where there is none.

        Args:
            name: The run's display name.
            wait: As for `run_once`.

        Raises:
            LockHeldError: Another client is starting it.
            ClusterError: Kubeflow can't be reached, or refused.
        """
        with self.locked(name, wait) as lock:
            result = self.runs_named(name)
            for run in result[1:]:
                if lock.left > 0:
                    self.remove_run(run)
            return result[0] if result else None

    def remove_run(self, run: Run) -> None:
        """Delete a run; it may be gone already."""
        self._remove(self._runs.run_service_delete_run, run.id)

    def locked(self, name: str, wait: float | None = None) -> AbstractContextManager[Lock]:
        """Hold the lock on the name of a run or a recurring run.

        Args:
            name: The display name.
            wait: Seconds to wait for another client; until its lock has expired, if not
                given.

        Raises:
            LockHeldError: Another client held it for as long.
            ClusterError: Kubeflow can't be reached, or refused.
        """
        return self._locks.held(name, 2 * self._locks.lease if wait is None else wait)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment of this name, which is made if there is none."""
        made = find_or_create(
            lambda: [_Id(item.experiment_id) for item in self._experiments_named(name)],
            lambda: _Id(self._create_experiment(name)),
            waits=self.waits(),
            settle=0.0,
        )
        return made.first.id

    def pipeline(self, name: str, description: str = "") -> str:
        """Return the id of the pipeline of this name, which is made if there is none."""
        body = api.V2beta1Pipeline(
            name=name,
            display_name=name,
            description=description or None,
            namespace=self.namespace or None,
        )
        return self._identified(
            self._pipelines.pipeline_service_list_pipelines,
            what="pipelines",
            key="pipeline_id",
            name=name,
            make=lambda: self._asking.ask(
                self._pipelines.pipeline_service_create_pipeline, body, again=False
            ),
            **self._within(),
        )

    def version(self, pipeline_id: str, name: str, package: Path) -> str:
        """Return the id of the version of this name, which is uploaded if there is none.

        Args:
            pipeline_id: Whose version it is.
            name: The version's.
            package: The compiled pipeline, a file that ends in .yaml.
        """
        return self._identified(
            self._pipelines.pipeline_service_list_pipeline_versions,
            what="pipeline_versions",
            key="pipeline_version_id",
            name=name,
            make=lambda: self._asking.ask(
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
        """Return every recurring run of exactly this name, the oldest first."""
        listed = self._listed(
            self._schedules.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            sort_by="created_at",
            filter=_named(name),
            **self._within(),
        )
        return _oldest_first([schedule_of(item) for item in listed], name)

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
            UnknownOutcomeError: It may have been made, or not.
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
        """Stop a recurring run, then delete it, and leave its runs; it may be gone already."""
        self._remove(self._schedules.recurring_run_service_disable_recurring_run, schedule.id)
        # By default Kubernetes deletes the workflows that belong to it, with their pods, and
        # Kubeflow shows their runs as running for ever.
        self._remove(
            self._schedules.recurring_run_service_delete_recurring_run,
            schedule.id,
            propagation_policy="ORPHAN",
        )

    def waits(self) -> Iterator[float]:
        """Return the seconds before each further attempt at something, growing and spread."""
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

    def _create_experiment(self, name: str, description: str = "") -> str:
        body = api.V2beta1Experiment(
            display_name=name,
            description=description or None,
            namespace=self.namespace or None,
        )
        create = self._experiments.experiment_service_create_experiment
        return str(self._asking.ask(create, body, again=False).experiment_id)

    def _delete_experiment(self, identity: str) -> None:
        self._remove(self._experiments.experiment_service_delete_experiment, identity)

    def _experiments_named(self, name: str) -> list[Any]:
        listing = self._experiments.experiment_service_list_experiments
        result = self._listed(listing, "experiments", filter=_named(name), **self._within())
        return [item for item in result if item.display_name == name]

    def _within(self) -> dict[str, Any]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _identified(
        self,
        listing: Callable[..., Any],
        *,
        what: str,
        key: str,
        name: str,
        make: Callable[[], Any],
        **within: Any,
    ) -> str:
        """Return the id of what has a unique name."""

        def find() -> list[_Id]:
            result = self._listed(listing, what, filter=_named(name), **within)
            # Newer servers know a name besides the one that is shown.
            return [
                _Id(getattr(item, key))
                for item in result
                if name in (item.display_name, getattr(item, "name", None))
            ][:1]

        made = find_or_create(
            find,
            lambda: _Id(getattr(make(), key)),
            waits=self.waits(),
            # Its name is taken or it is not: a second one can't come of it.
            settle=0.0,
        )
        return made.first.id

    def _listed(
        self, listing: Callable[..., Any], what: str, *, limit: int | None = None, **named: Any
    ) -> list[Any]:
        """Return all pages of a listing, or so many of its entries.

        Raises:
            InvalidAnswerError: A page leads back to an earlier one.
            ClusterError: Kubeflow can't be asked.
        """
        result: list[Any] = []
        token = ""
        seen: set[str] = set()
        while True:
            size = _PAGE if limit is None else min(_PAGE, limit - len(result))
            given = {key: value for key, value in named.items() if value is not None}
            page = self._asking.ask(listing, page_size=size, page_token=token, **given)
            result += getattr(page, what) or []
            token = page.next_page_token or ""
            if not token or (limit is not None and len(result) >= limit):
                return result[:limit]
            if token in seen:
                raise self._asking.invalid(f"the token {token[:60]!r} of a page for a second time")
            seen.add(token)

    def _remove(self, function: Callable[..., Any], identity: str, **more: Any) -> None:
        try:
            self._asking.ask(function, identity, **more)
        except NotFoundError:
            # Another took it away, or an attempt that was not answered did.
            return


class _Id:
    def __init__(self, identity: str) -> None:
        self.id = identity


def _runtime(parameters: dict[str, Any], pipeline_root: str) -> Any:
    return api.V2beta1RuntimeConfig(parameters=parameters, pipeline_root=pipeline_root or None)


def _uncached(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline with caching off for each of its tasks."""
    changed: dict[str, Any] = json.loads(json.dumps(spec))
    pipeline = changed.get("pipeline_spec", changed)
    for task in pipeline["root"]["dag"]["tasks"].values():
        task["cachingOptions"] = {}
    return changed


def _named(name: str) -> str:
    """Return a filter by name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    return json.dumps({"predicates": [predicate]})


Dated = TypeVar("Dated", Run, Schedule)


def _oldest_first(dated: Sequence[Dated], name: str) -> list[Dated]:
    # What is not first may be taken away: never trust a filter alone.
    same = [item for item in dated if item.name == name]
    return sorted(
        same, key=lambda item: (item.created.timestamp() if item.created else 0.0, item.id)
    )
