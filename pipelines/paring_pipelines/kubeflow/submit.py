"""One run for one source and one plan: `paring submit`."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paring.errors import ClusterError
from paring_pipelines.kubeflow.idempotency import Made
from paring_pipelines.kubeflow.leases import Claims, Standing
from paring_pipelines.kubeflow.package import DIGEST, Package
from paring_pipelines.kubeflow.types import Run

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.client import Kubeflow

_SHOWN = 12
"""Digits of each digest in a run's name: enough that two never meet."""


@dataclass(frozen=True)
class Plan:
    """All that a run is besides its source.

    Attributes:
        package: The pipeline.
        parameters: Of the pipeline, besides the sources.
        experiment: The experiment's name.
        pipeline_root: The URI that artifacts lie below; "" for Kubeflow's default.
        service_account: Of the pods; "" for Kubeflow's default.
        caching: Whether tasks may take results of earlier runs.
        attempt: Above 1 to run again what has had its run.
    """

    package: Package
    parameters: dict[str, str] = field(default_factory=dict)
    experiment: str = "paring"
    pipeline_root: str = ""
    service_account: str = ""
    caching: bool = True
    attempt: int = 1

    def digest(self) -> str:
        """Return SHA-256 over what decides what the run does, as hexadecimal digits.

        Not over where it does it: the experiment, the service account.
        """
        return self.package.digest(self.parameters, self.pipeline_root, self.caching)

    def run_name(self, digest: str) -> str:
        """Return the name of the run on the source with this digest.

        Args:
            digest: Of `paring_pipelines.kubeflow.sources.source_digest`.
        """
        source = digest.removeprefix("sha256:")[:_SHOWN]
        name = f"{self.package.name}-{source}-{self.digest()[:_SHOWN]}"
        return name if self.attempt == 1 else f"{name}-{self.attempt}"


def submit(
    kubeflow: "Kubeflow",
    plan: Plan,
    *,
    model: str,
    examples: str,
    digest: str,
    wait: float | None = None,
    may_create: Callable[[], None] = lambda: None,
) -> Made[Run]:
    """Start the run of `plan` on the sources, unless it was started before.

    Args:
        kubeflow: Where it runs.
        plan: What it does.
        model: Where the model lies, as the cluster sees it.
        examples: Where the examples lie.
        digest: Of both, see `paring_pipelines.kubeflow.sources.source_digest`.
        wait: Seconds to wait for another client that is starting the same run; until it has,
            or was killed, if not given.
        may_create: Called before each request that starts a run.

    Raises:
        ParameterError: The pipeline does not take the parameters.
        LockHeldError: Another client is starting it.
        ClusterError: Kubeflow can't be reached, or refused.
    """
    sources = {"model_uri": model, "examples_uri": examples, DIGEST: digest}
    return kubeflow.run_once(
        plan.run_name(digest),
        experiment=plan.experiment,
        spec=dict(plan.package.spec),
        parameters=plan.package.parameters(plan.parameters | sources),
        pipeline_root=plan.pipeline_root,
        service_account=plan.service_account,
        caching=plan.caching,
        wait=wait,
        may_create=may_create,
    )


def submit_claimed(
    kubeflow: "Kubeflow", plan: Plan, *, model: str, examples: str, digest: str, state: str
) -> Made[Run]:
    """Submit as `submit` does, while others may submit the same at the same moment.

    Args:
        kubeflow: Where it runs.
        plan: What it does.
        model: Where the model lies, as the cluster sees it.
        examples: Where the examples lie.
        digest: Of both.
        state: A path or URI where all of them keep their claims.

    Raises:
        ClusterError: Another is submitting it now.
        ParingError: As `submit`; or the claims can't be read or written.
    """
    margin = 2 * kubeflow.settings.timeout
    claims = Claims(state, lease=3 * margin, margin=margin)
    name = plan.run_name(digest)
    key = hashlib.sha256(name.encode()).hexdigest()[:32]
    standing = claims.standings().get(key, Standing())
    claim = claims.claim(key, lambda: name, standing)
    if claim is not None:
        made = claims.hold(
            claim,
            lambda progress: submit(
                kubeflow,
                plan,
                model=model,
                examples=examples,
                digest=digest,
                may_create=progress.begin,
            ),
        )
        claims.finish(key, {"run": made.first.id, "name": name})
        return made
    # It was submitted, unless that goes on in this moment.
    result = kubeflow.runs_named(name)
    if result:
        return Made(result[0], False)
    raise ClusterError(
        "another is submitting this run now",
        received=name,
        remedy=f"wait; should it have been killed, this command works in {claims.lease:g} s",
    )
