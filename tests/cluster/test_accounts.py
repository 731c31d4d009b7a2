"""Rights of each service account of the manifests on a cluster.

The API server answers, to a token of the account. `MAY` holds all rights that
docs/operations.md grants: any other right is a failure.
"""

from typing import Any

import pytest
from tests.cluster.api import Api, RefusedError, Resource
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import RUNS, WATCH

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.usefixtures("applied"),
]

Right = tuple[str, str, str, str]
"""API group, resource with its subresource, name of a single object or "", and verb."""


def _rights(group: str, resources: str, verbs: str, name: str = "") -> set[Right]:
    return {(group, item, name, verb) for item in resources.split() for verb in verbs.split()}


_KUBEFLOW = "pipelines.kubeflow.org"
_SUBMITS = {
    *_rights(_KUBEFLOW, "pipelines pipelines/versions", "get list create"),
    # An experiment stands for a lock, which is given back.
    *_rights(_KUBEFLOW, "experiments", "get list create delete"),
    *_rights(_KUBEFLOW, "runs", "get list create delete"),
    *_rights(_KUBEFLOW, "jobs", "get list create delete disable enable"),
}
_RUNS_STEPS = {
    *_rights("argoproj.io", "workflowtaskresults", "create patch"),
    *_rights("", "configmaps", "get", name="kfp-launcher"),
    *_rights("", "secrets", "get", name="mlpipeline-minio-artifact"),
    *_rights("", "pods", "get list watch"),
}

MAY: dict[tuple[str, str], dict[str, set[Right]]] = {
    (WATCH, "paring-watch"): dict.fromkeys(sorted(set(RUNS.values())), _SUBMITS),
    (WATCH, "paring-sensor"): {WATCH: _rights("batch", "jobs", "create")},
    **{(item, "paring-runner"): {item: _RUNS_STEPS} for item in sorted(set(RUNS.values()))},
}
"""Rights of accounts, by their namespace and name, in each namespace."""

NAMESPACES = ("default", "kube-system", WATCH, *sorted(set(RUNS.values())))

# Rights that none of them has, unless `MAY` says so.
_FORBIDDEN = (
    *(_rights("", "secrets", "get list watch create")),
    *(_rights("", "pods", "create delete patch")),
    *(_rights("", "pods/exec pods/attach pods/portforward", "create")),
    *(_rights("", "serviceaccounts/token", "create")),
    *(_rights("", "configmaps", "list create update delete")),
    *(_rights("", "nodes namespaces persistentvolumes", "list create delete")),
    *(
        _rights(
            "rbac.authorization.k8s.io", "roles rolebindings clusterroles", "create bind escalate"
        )
    ),
    *(_rights("argoproj.io", "workflows", "get create delete")),
    *(_rights("batch", "cronjobs", "get create patch delete")),
    *(_rights("batch", "jobs", "get delete patch")),
    *(_rights("", "users serviceaccounts", "impersonate")),
    *(_rights(_KUBEFLOW, "pipelines experiments", "delete update")),
)


def _token(cluster: Cluster, account: tuple[str, str], *audiences: str) -> str:
    namespace, name = account
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    spec: dict[str, Any] = {"expirationSeconds": 600, "audiences": list(audiences)}
    made = cluster.api().create(path, {"spec": spec})
    return str(made["status"]["token"])


def _allowed(api: Api, namespace: str, right: Right) -> bool:
    group, resource, name, verb = right
    resource, _, subresource = resource.partition("/")
    asked = {
        "namespace": namespace,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "name": name,
        "verb": verb,
    }
    review = {"spec": {"resourceAttributes": asked}}
    made = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(made["status"]["allowed"])


def _all_rights(api: Api, namespace: str) -> set[Right]:
    """Return all rights of the caller to resources of a namespace, as the server lists them."""
    review = {"spec": {"namespace": namespace}}
    made = api.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)
    assert not made["status"]["incomplete"], made["status"]
    return {
        (group, resource, name, verb)
        for rule in made["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


ACCOUNTS = [pytest.param(account, id="-".join(account)) for account in MAY]


@pytest.fixture(scope="module")
def of_anybody(cluster: Cluster) -> set[Right]:
    """Rights that every account has."""
    cluster.api().create(
        "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "anybody"}}
    )
    result = _all_rights(cluster.api(_token(cluster, ("default", "anybody"))), "default")
    assert {group for group, *_ in result} == {"authentication.k8s.io", "authorization.k8s.io"}
    return result


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_may_do_what_it_must(cluster: Cluster, account: tuple[str, str]) -> None:
    api = cluster.api(_token(cluster, account))
    asked = [(place, right) for place, rights in MAY[account].items() for right in sorted(rights)]
    refused = [item for item in asked if not _allowed(api, *item)]
    assert not refused
    assert asked


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_may_do_nothing_else_anywhere(
    cluster: Cluster, of_anybody: set[Right], account: tuple[str, str]
) -> None:
    api = cluster.api(_token(cluster, account))
    for namespace in NAMESPACES:
        granted = MAY[account].get(namespace, set())
        assert _all_rights(api, namespace) - of_anybody == granted, namespace
        for right in _FORBIDDEN:
            if right not in granted:
                assert not _allowed(api, namespace, right), (namespace, right)


def test_the_token_in_a_pod_of_watch_is_of_no_use_to_the_cluster_itself(cluster: Cluster) -> None:
    token = _token(cluster, (WATCH, "paring-watch"), "pipelines.kubeflow.org")
    with pytest.raises(RefusedError) as refused:
        cluster.api(token).get("/api/v1/namespaces/default/pods")
    assert refused.value.code == 401


def test_a_step_reads_the_one_secret_that_the_launcher_needs(cluster: Cluster) -> None:
    (runs,) = {item for item in RUNS.values() if item == "kubeflow"}
    for name in ("mlpipeline-minio-artifact", "another"):
        secret: Resource = {"metadata": {"name": name}, "stringData": {"key": name}}
        cluster.api().create(f"/api/v1/namespaces/{runs}/secrets", secret)
    api = cluster.api(_token(cluster, (runs, "paring-runner")))
    assert api.get(f"/api/v1/namespaces/{runs}/secrets/mlpipeline-minio-artifact")["data"]
    for path in (f"{runs}/secrets/another", f"{runs}/secrets", f"{WATCH}/pods"):
        with pytest.raises(RefusedError) as refused:
            api.get(f"/api/v1/namespaces/{path}")
        assert refused.value.code == 403
