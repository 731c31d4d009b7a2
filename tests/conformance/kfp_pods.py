"""Pods that Kubeflow makes of a compiled package's tasks.

A pod of Kubeflow 2.17 comes from three hands: its compiler writes a template (volumes to
work in, a security context), its driver patches that with what the package says (command,
image, resources, and all of the second document), and Argo starts it. What they add to each
pod for themselves, the launcher and Argo's executor, is left out: the container's command is
the task's own.

A field of the second document that is not translated here is refused, since a pod that
silently lacks it would prove nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from tests.conformance.kfp_runner import Task

Pod = dict[str, Any]

# Where the launcher puts what it downloads, and what programs take for their home.
_SCRATCH = ("/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config")


def tasks(package: Path) -> Iterator[Task]:
    """Yield the tasks of a package that have a container, with placeholders in their commands."""
    first, *more = yaml.safe_load_all(package.read_text())
    spec = json_format.ParseDict(first, pb.PipelineSpec(), ignore_unknown_fields=False)
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    configs: Mapping[str, Any] = {}
    for document in more:
        platform = json_format.ParseDict(document, pb.PlatformSpec(), ignore_unknown_fields=False)
        configs = platform.platforms["kubernetes"].deployment_spec.executors
    for name, task in sorted(spec.root.dag.tasks.items()):
        label = spec.components[task.component_ref.name].executor_label
        if "container" not in executors[label]:
            continue
        container = executors[label]["container"]
        config = KubernetesExecutorConfig()
        if label in configs:
            json_format.ParseDict(json_format.MessageToDict(configs[label]), config)
        command = (*container.get("command", []), *container.get("args", []))
        yield Task(name, command, container, config, task.retry_policy.max_retry_count)


def pod(task: Task, name: str, *, service_account: str = "default") -> Pod:
    """Return the pod of an attempt at a task.

    Args:
        task: Task to run.
        name: Name of the pod.
        service_account: Service account of the pod.

    Raises:
        ValueError: The second document has a field that is not translated here.
    """
    asked = json_format.MessageToDict(task.kubernetes)
    made = _Made(asked)
    scratch = {f"scratch-{path.strip('/.')}": path for path in _SCRATCH}
    for volume, path in scratch.items():
        made.mount({"name": volume, "emptyDir": {}}, path)
    made.claims()
    made.files()
    made.scratch()
    container: dict[str, Any] = {
        "name": "main",
        "image": task.container["image"],
        "command": list(task.command),
        "env": [*_own_environment(), *task.container.get("env", []), *made.environment()],
        "resources": _resources(task.container.get("resources", {})),
        "volumeMounts": made.mounts,
        "securityContext": made.security_context(),
    }
    if policy := made.take("imagePullPolicy"):
        container["imagePullPolicy"] = policy
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": service_account,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": made.volumes,
        "nodeSelector": made.take("nodeSelector", {}).get("labels", {}),
        "tolerations": made.take("tolerations", []),
        "imagePullSecrets": [
            {"name": item} for item in made.names("imagePullSecret", "secretName")
        ],
    }
    if deadline := made.take("activeDeadlineSeconds"):
        spec["activeDeadlineSeconds"] = int(deadline)
    metadata = {"name": name, **made.take("podMetadata", {})}
    made.check_nothing_left(task.name)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _own_environment() -> list[dict[str, Any]]:
    fields = {"KFP_POD_NAME": "metadata.name", "KFP_POD_UID": "metadata.uid"}
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in fields.items()
    ]


def _resources(asked: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return requests and limits; like the driver, put an accelerator among the limits."""
    result: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for kind, plural in (("Request", "requests"), ("Limit", "limits")):
        for resource in ("Cpu", "Memory"):
            if text := asked.get(f"resource{resource}{kind}"):
                result[plural][resource.lower()] = text
    accelerator = asked.get("accelerator")
    if accelerator is not None:
        result["limits"][accelerator["resourceType"]] = accelerator["resourceCount"]
    return result


class _Made:
    """Pod under construction, which consumes a task's part of the second document."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self.volumes: list[dict[str, Any]] = []
        self.mounts: list[dict[str, Any]] = []

    def take(self, key: str, default: Any = None) -> Any:
        return self._asked.pop(key, default)

    def check_nothing_left(self, task: str) -> None:
        if self._asked:
            raise ValueError(f"{task}: not translated into a pod: {sorted(self._asked)}")

    def mount(self, volume: dict[str, Any], path: str, **more: str) -> None:
        """Mount a volume, which is added unless its name exists."""
        if volume["name"] not in {item["name"] for item in self.volumes}:
            self.volumes.append(volume)
        self.mounts.append({"name": volume["name"], "mountPath": path, **more})

    def names(self, key: str, field: str) -> Iterator[str]:
        for item in self.take(key, []):
            yield _constant(item, field)

    def claims(self) -> None:
        for item in self.take("pvcMount", []):
            claim = item.get("constant") or _constant(item, "pvcName")
            more = {"subPath": item["subPath"]} if "subPath" in item else {}
            volume = {"name": claim, "persistentVolumeClaim": {"claimName": claim}}
            self.mount(volume, item["mountPath"], **more)

    def files(self) -> None:
        """Mount Secrets and ConfigMaps."""
        for item in self.take("secretAsVolume", []):
            name = _constant(item, "secretName")
            source = {"secretName": name, "optional": item.get("optional", False)}
            self.mount({"name": name, "secret": source}, item["mountPath"])
        for item in self.take("configMapAsVolume", []):
            name = _constant(item, "configMapName")
            source = {"name": name, "optional": item.get("optional", False)}
            self.mount({"name": name, "configMap": source}, item["mountPath"])

    def scratch(self) -> None:
        for item in self.take("emptyDirMounts", []):
            source = {key: item[key] for key in ("medium", "sizeLimit") if key in item}
            self.mount({"name": item["volumeName"], "emptyDir": source}, item["mountPath"])

    def environment(self) -> Iterator[dict[str, Any]]:
        """Yield variables from Secrets, ConfigMaps and the pod's own fields."""
        for kind, reference, key in (
            ("secret", "secretKeyRef", "secretKey"),
            ("configMap", "configMapKeyRef", "configMapKey"),
        ):
            for item in self.take(f"{kind}AsEnv", []):
                source = {"name": _constant(item, f"{kind}Name")}
                if "optional" in item:
                    source["optional"] = item["optional"]
                for variable in item["keyToEnv"]:
                    value = {reference: {**source, "key": variable[key]}}
                    yield {"name": variable["envVar"], "valueFrom": value}
        for item in self.take("fieldPathAsEnv", []):
            value = {"fieldRef": {"fieldPath": item["fieldPath"]}}
            yield {"name": item["name"], "valueFrom": value}

    def security_context(self) -> dict[str, Any]:
        """Return the template's security context with the user of the package."""
        context: dict[str, Any] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        asked = self.take("securityContext", {})
        for key in ("runAsUser", "runAsGroup"):
            if key in asked:
                context[key] = int(asked.pop(key))
        if "runAsNonRoot" in asked:
            context["runAsNonRoot"] = asked.pop("runAsNonRoot")
        if asked:
            raise ValueError(f"not translated into a security context: {sorted(asked)}")
        return context


def _constant(asked: Mapping[str, Any], field: str) -> str:
    """Return a name that is given directly or as a constant parameter."""
    if field in asked:
        return str(asked[field])
    return str(asked[f"{field}Parameter"]["runtimeValue"]["constant"])


def shown(pods: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each pod with its machine, for messages."""
    rows = []
    for item in pods:
        conditions = item["status"].get("conditions", [])
        why = next((c["message"].partition(". ")[0] for c in conditions if c.get("message")), "")
        node = item["spec"].get("nodeName", "nowhere")
        rows.append(
            f"{item['metadata']['name']}: {item['status']['phase']} on {node} {why}".rstrip()
        )
    return "\n".join(rows)
