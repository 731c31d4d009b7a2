"""The manifests below k8s/: each overlay is built, and held to schemas and to rules."""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from paring_pipelines.cli.kubeflow import watch
from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.formats import quantity
from paring_pipelines.kubeflow.launcher_config import BUILT_IN_ROOT
from paring_pipelines.kubeflow.package import read_package
from paring_pipelines.kubeflow.placement import Placement
from paring_pipelines.kubeflow.placement_rules import place
from paring_pipelines.kubeflow.stores import check_stores
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings

K8S = Path(__file__).parents[2] / "k8s"
SCHEMAS = Path(__file__).with_name("schemas")
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
KUBERNETES = "1.35"
"""Two releases behind the newest, since clusters lag behind."""

Resource = dict[str, Any]


def _built(overlay: str) -> list[Resource]:
    return _kustomized(K8S / "overlays" / overlay)


@cache
def _kustomized(folder: Path) -> list[Resource]:
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [kubectl, "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item is not None]


def _validate(resource: Resource) -> None:
    schema = SCHEMAS / f"{resource['kind']}.json"
    if schema.is_file():
        jsonschema.validate(resource, json.loads(schema.read_text()))
        return
    # Of a kind that it doesn't know this raises SchemaNotFoundError.
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def _resources(overlay: str) -> list[Resource]:
    """The overlay's resources, those inside a Sensor's triggers included."""
    result = copy.deepcopy(_built(overlay))
    for sensor in _of_kind(result, "Sensor"):
        result += [
            trigger["template"]["k8s"]["source"]["resource"]
            for trigger in sensor["spec"]["triggers"]
        ]
    return result


def _of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def _pods(overlay: str) -> Iterator[Resource]:
    """The specs of all pods that the overlay leads to."""
    for resource in _resources(overlay):
        if resource["kind"] == "CronJob":
            yield resource["spec"]["jobTemplate"]["spec"]["template"]
        if resource["kind"] in ("Job", "Deployment"):
            yield resource["spec"]["template"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_of_an_overlay_is_valid(overlay: str) -> None:
    resources = _resources(overlay)
    assert {"CronJob", "NetworkPolicy", "Role", "ServiceAccount"} <= {r["kind"] for r in resources}
    for resource in resources:
        _validate(resource)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("CronJob", ("spec", "concurrencyPolicies")),
        ("NetworkPolicy", ("spec", "egres")),
        ("Sensor", ("spec", "dependencys")),
    ],
)
def test_a_field_that_does_not_exist_is_found(kind: str, path: tuple[str, ...]) -> None:
    (resource, *_) = _of_kind(copy.deepcopy(_built("argo-events")), kind)
    inner = resource
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = []
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        _validate(resource)


def test_a_kind_without_a_schema_is_found() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        _validate({"apiVersion": "example.com/v1", "kind": "Unheard", "metadata": {"name": "x"}})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_standard(overlay: str) -> None:
    pods = list(_pods(overlay))
    assert pods
    volumes = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
    for pod in (item["spec"] for item in pods):
        whole = pod["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["runAsUser"] > 0
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) - {"name"} <= volumes for volume in pod["volumes"])
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
    (namespace,) = _of_kind(_built(overlay), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_of_argo_events_keep_to_the_restricted_standard() -> None:
    events = _of_kind(_built("argo-events"), "EventSource", "Sensor")
    assert len(events) == 2
    for template in (event["spec"]["template"] for event in events):
        whole, own = template["securityContext"], template["container"]["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["runAsUser"] > 0
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_roles_grant_nothing_by_a_star_and_secrets_by_name(overlay: str) -> None:
    roles = _of_kind(_built(overlay), "Role", "ClusterRole")
    assert {item["kind"] for item in roles} == {"Role"}
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_referred_to_is_there(overlay: str) -> None:
    resources = _built(overlay)
    known = {
        (resource["kind"], resource["metadata"].get("namespace"), resource["metadata"]["name"])
        for resource in resources
    }
    for binding in _of_kind(resources, "RoleBinding"):
        here = binding["metadata"]["namespace"]
        assert ("Role", here, binding["roleRef"]["name"]) in known
        for subject in binding["subjects"]:
            assert ("ServiceAccount", subject.get("namespace", here), subject["name"]) in known
    for pod in (item["spec"] for item in _pods(overlay)):
        assert ("ServiceAccount", "paring", pod["serviceAccountName"]) in known
        (container,) = pod["containers"]
        maps = [
            item["configMapRef"]["name"] for item in container["envFrom"] if "configMapRef" in item
        ]
        maps += [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        assert len(maps) == 2
        assert all(("ConfigMap", "paring", name) in known for name in maps)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_another_namespace_and_a_prefix_reach_every_reference(overlay: str, tmp_path: Path) -> None:
    copied = shutil.copytree(K8S, tmp_path / "k8s") / "overlays" / overlay
    watch = copied / "watch" / "kustomization.yaml"
    watch.write_text(watch.read_text().replace("namespace: paring\n", "namespace: mine\n"))
    whole = copied / "kustomization.yaml"
    whole.write_text(f"{whole.read_text()}namePrefix: our-\n")
    resources = _kustomized(copied)
    accounts = {
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in _of_kind(resources, "ServiceAccount")
    }
    bindings = {item["metadata"]["name"]: item for item in _of_kind(resources, "RoleBinding")}
    (subject,) = bindings["our-paring-watch-submits"]["subjects"]
    assert (subject["namespace"], subject["name"]) == ("mine", "our-paring-watch")
    assert (subject["namespace"], subject["name"]) in accounts
    (runs,) = (here for here, name in accounts if name == "our-paring-runner")
    assert bindings["our-paring-watch-submits"]["metadata"]["namespace"] == runs
    # The Sensor's copy of the Job as well.
    text = yaml.safe_dump(resources)
    named = set(re.findall(r"--service-account=(\S+)", text))
    assert named == {"our-paring-runner"}
    assert text.count("--service-account=") == (2 if overlay == "argo-events" else 1)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_policy_and_the_pods_have_the_same_labels(overlay: str) -> None:
    (policy,) = _of_kind(_built(overlay), "NetworkPolicy")
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted
    for pod in _pods(overlay):
        assert wanted.items() <= pod["metadata"]["labels"].items()
    assert policy["spec"]["ingress"] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_watch_runs_at_a_time(overlay: str) -> None:
    (job,) = _of_kind(_built(overlay), "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_container_starts_a_command_that_there_is(overlay: str) -> None:
    variables: dict[str, str] = {}
    for item in _of_kind(_built(overlay), "ConfigMap"):
        variables |= {key: value for key, value in item["data"].items() if key.isupper()}
    for pod in (item["spec"] for item in _pods(overlay)):
        (container,) = pod["containers"]
        # As the kubelet does.
        command, *arguments = (
            re.sub(r"\$\((\w+)\)", lambda result: variables[result[1]], arg)
            for arg in container["args"]
        )
        context = watch.make_context(command, arguments)
        assert context.params["once"]
        assert context.params["source"] == variables["PARING_SOURCE"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        for file in (context.params["recipes"], *context.params["runtimes"]):
            assert str(file.parent) in mounts


def _variables(overlay: str) -> dict[str, str]:
    """Return the variables that the pod of `watch` gets from its ConfigMap."""
    (result,) = (
        item["data"]
        for item in _of_kind(_built(overlay), "ConfigMap")
        if "PARING_SOURCE" in item["data"]
    )
    return dict(result)


def _placed(overlay: str, folder: Path) -> tuple[Dag, dict[str, Placement]]:
    """The pipeline that `watch` submits, and where its tasks run."""
    (files,) = (
        item["data"]
        for item in _of_kind(_built(overlay), "ConfigMap")
        if "recipes.toml" in item["data"]
    )
    for name, content in files.items():
        (folder / name).write_text(content)
    dag = build(load_recipes(folder / "recipes.toml"), Settings())
    return dag, place(dag, [folder / "runtime.toml"], target="cpu-server")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_runs_get_recipes_and_placement_that_fit_each_other(overlay: str, tmp_path: Path) -> None:
    _, placements = _placed(overlay, tmp_path)
    # One image for the steps, and the same for what submits them.
    (watch, *_) = (
        container["image"] for pod in _pods(overlay) for container in pod["spec"]["containers"]
    )
    assert {placement.image for placement in placements.values()} == {watch}
    assert not any(item.cache for name, item in placements.items() if name.startswith("benchmark"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_steps_run_as_a_stated_user_that_is_not_root(overlay: str, tmp_path: Path) -> None:
    for item in _placed(overlay, tmp_path)[1].values():
        assert item.security_context.run_as_non_root is True
        assert item.security_context.run_as_user == item.security_context.run_as_group == 65532


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_steps_can_read_the_sources_that_are_watched(overlay: str, tmp_path: Path) -> None:
    dag, placements = _placed(overlay, tmp_path)
    compile_dag(dag, tmp_path / "pipeline.yaml", image="paring", placements=placements)
    variables = _variables(overlay)
    sources = {
        "model_uri": variables["PARING_SOURCE"],
        "examples_uri": variables["PARING_EXAMPLES"],
    }
    options = {"model_uri": "--source", "examples_uri": "--examples"}
    root = variables["PARING_PIPELINE_ROOT"]
    assert (
        check_stores(
            read_package(tmp_path / "pipeline.yaml"),
            options=options,
            uris=sources,
            pipeline_root=root,
        )
        == []
    )
    for uri in sources.values():
        # Without a Secret that somebody has yet to make.
        in_the_root = uri.split("/")[:3] == (root or BUILT_IN_ROOT).split("/")[:3]
        identities = placements["import_model"].store_identity
        assert in_the_root or uri.startswith(identities), uri
    if uri.startswith("minio://"):
        assert variables["AWS_ENDPOINT_URL"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_source_in_another_bucket_needs_a_secret_and_no_other_change(
    overlay: str, tmp_path: Path
) -> None:
    dag, placements = _placed(overlay, tmp_path)
    compile_dag(dag, tmp_path / "pipeline.yaml", image="paring", placements=placements)
    scheme = "gs" if overlay == "gke" else "s3"
    sources = dict.fromkeys(("model_uri", "examples_uri"), f"{scheme}://another/models")
    options = {"model_uri": "--source", "examples_uri": "--examples"}
    assert (
        check_stores(read_package(tmp_path / "pipeline.yaml"), options=options, uris=sources) == []
    )


def test_events_are_of_the_outputs_that_are_watched() -> None:
    (source,) = _of_kind(_built("argo-events"), "EventSource")
    (store,) = source["spec"]["minio"].values()
    watched = _variables("argo-events")
    prefix = f"minio://{store['bucket']['name']}/{store['filter']['prefix']}"
    assert prefix == f"{watched['PARING_SOURCE']}/"
    assert watched["AWS_ENDPOINT_URL"] == f"http://{store['endpoint']}"


def test_the_quota_counts_what_is_in_use_and_leaves_room_for_a_run(tmp_path: Path) -> None:
    resources = _built("gke")
    (quota,) = _of_kind(resources, "ResourceQuota")
    # Object counts go on counting pods that have ended; these don't.
    assert not [name for name in quota["spec"]["hard"] if name.startswith("count/")]
    hard = {name: quantity(str(value)) for name, value in quota["spec"]["hard"].items()}
    _, placements = _placed("gke", tmp_path)
    assert hard["pods"] > 2 * len(placements)
    (limits,) = _of_kind(resources, "LimitRange")
    (container,) = limits["spec"]["limits"]
    for placement in placements.values():
        for asked, most, name in (
            (placement.cpu, placement.cpu_limit, "cpu"),
            (placement.memory, placement.memory_limit, "memory"),
        ):
            assert asked
            assert quantity(asked) <= hard[f"requests.{name}"]
            # The limit that the namespace gives a container which has none.
            limit = most or container.get("default", {}).get(name)
            assert limit is None or quantity(asked) <= quantity(limit)
        # Each request that the quota counts must be there, by default at least.
        assert container["defaultRequest"].keys() >= {"cpu", "memory", "ephemeral-storage"}


def test_the_pipelines_resources_are_valid_and_of_one_version() -> None:
    pipeline, version = _kustomized(K8S / "gitops")
    for resource in (pipeline, version):
        _validate(resource)
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
    message = pipeline_spec_pb2.PipelineSpec()
    json_format.ParseDict(version["spec"]["pipelineSpec"], message, ignore_unknown_fields=False)
    assert message.pipeline_info.name == pipeline["metadata"]["name"]
