"""Check of the stores that the tasks of a package read and write.

Kubeflow's launcher, which downloads a task's inputs before our command starts, opens the
pipeline root's bucket with the session that the ConfigMap kfp-launcher describes. Any other
bucket it opens from the container's environment alone. A run whose sources lie elsewhere
and whose tasks have no environment for that fails minutes later, with an error that names
neither.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from paring.errors import ParameterError, ParingError, nearest
from paring_pipelines.kubeflow.launcher_config import BUILT_IN_ROOT
from paring_pipelines.kubeflow.package import SOURCES, Package
from paring_pipelines.kubeflow.placement import STORE_IDENTITY

_SCHEMES = ("gs", "s3", "minio")
_BUCKET = re.compile(rf"({'|'.join(_SCHEMES)})://([^/?]*)")

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_OTHER_CREDENTIALS = (
    ("AWS_PROFILE",),
    ("AWS_SHARED_CREDENTIALS_FILE",),
    ("AWS_CONFIG_FILE",),
    ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI",),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
)
_GOOGLES = ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST")


@dataclass(frozen=True)
class _Task:
    """Part of a compiled task that decides which stores it can open.

    Attributes:
        name: The name of the task.
        step: The name of the step that it runs.
        sources: The pipeline's parameters whose URIs the launcher downloads for it.
        uris: URIs that are parameters of the step, which opens them itself, by name.
        environment: The environment variables, each with its text, None where that is in
            a Secret or a ConfigMap.
        identities: Prefixes of URIs that the pod's own identity opens.
    """

    name: str
    step: str
    sources: tuple[str, ...]
    uris: Mapping[str, str]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    identities: tuple[str, ...] = ()


def check_pipeline_root(root: str) -> None:
    """Refuse a pipeline root that Kubeflow's launcher can't open.

    Args:
        root: The option --pipeline-root; "" for Kubeflow's default.

    Raises:
        ParameterError: It is in no store that Kubeflow knows, or has no bucket.
    """
    bucket = _bucket(root)
    if root and not (bucket and bucket[1]):
        raise ParameterError(
            "--pipeline-root: Kubeflow keeps artifacts in buckets of object stores alone",
            received=root,
            remedy="give s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or minio://BUCKET/FOLDER",
        )


def check_stores(
    package: Package,
    *,
    options: Mapping[str, str],
    uris: Mapping[str, str],
    pipeline_root: str = "",
    default_root: Callable[[], str] | None = None,
) -> list[str]:
    """Refuse sources and destinations in stores that the tasks can't open.

    Args:
        package: The pipeline.
        options: The command line's option for each of `package.SOURCES`, for the error.
        uris: The URI of each; for `watch` that of what is watched.
        pipeline_root: The run's own; "" for Kubeflow's default.
        default_root: Returns Kubeflow's default or raises a ParingError. Called at most
            once, and only where a source would be refused with the default that is built
            into Kubeflow.

    Returns:
        Warnings, a line each: of sources that Kubeflow's newer releases can't import.

    Raises:
        ParameterError: A source is in no store that Kubeflow imports from, or a task is
            given a store that it has no environment for.
    """
    for name in SOURCES:
        _check_importable(options[name], uris[name])
    root, known = pipeline_root or BUILT_IN_ROOT, bool(pipeline_root)
    for task in _tasks(package):
        for parameter in task.sources:
            uri = uris[parameter]
            obstacle = "" if _is_of(uri, root) else _obstacle(task, uri)
            if obstacle and not known and default_root is not None:
                with suppress(ParingError):
                    root, known = default_root(), True
                default_root = None
            if obstacle and not _is_of(uri, root):
                raise _unreadable(
                    task,
                    option=options[parameter],
                    uri=uri,
                    root=root,
                    obstacle=obstacle,
                    known=known,
                )
        for parameter, uri in task.uris.items():
            _check_own(task, parameter, uri)
    return [
        f"{options[name]}: {uris[name]} is a path, which Kubeflow Pipelines 2.5 and later"
        " refuse to import; give gs://, s3:// or minio://"
        for name in SOURCES
        if uris[name].partition("://")[0] in (uris[name], "file")
    ]


def _check_importable(option: str, uri: str) -> None:
    """Refuse a URI that Kubeflow's importers can't take; a path is warned of."""
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        return
    if scheme not in _SCHEMES:
        raise ParameterError(
            f"{option}: Kubeflow imports from no store of this kind",
            received=uri,
            remedy=f"{nearest(scheme, _SCHEMES)}; give gs://, s3:// or minio://",
        )
    if not (_bucket(uri) or ("", ""))[1]:
        raise ParameterError(
            f"{option}: a bucket is missing", received=uri, remedy=f"give {scheme}://BUCKET/FOLDER"
        )


def _is_of(uri: str, root: str) -> bool:
    """Return whether the launcher opens `uri` as it opens the root, or not at all."""
    return _bucket(uri) in (None, _bucket(root))


def _obstacle(task: _Task, uri: str) -> str:
    """Return why the launcher can't open `uri` from the task's environment; "" if it can."""
    missing = _missing(task, uri, launcher=True)
    if missing:
        return f"which has no {missing}"
    endpoint = _endpoint(task)
    trusted = uri.startswith("gs:") or any(_is_below(uri, identity) for identity in task.identities)
    if endpoint and not trusted and _is_cluster_name(endpoint):
        return (
            f"by AWS_ENDPOINT_URL={endpoint} at the host BUCKET.{urlsplit(endpoint).netloc},"
            " which the cluster's name service does not know: give the service's IP address"
        )
    return ""


def _unreadable(
    task: _Task, *, option: str, uri: str, root: str, obstacle: str, known: bool
) -> ParameterError:
    bucket = "://".join(_bucket(uri) or ())
    other = f"the pipeline root {root}" if known else f"Kubeflow's default pipeline root {root}"
    named = "" if known else "; or name the root, if kfp-launcher has another: --pipeline-root URI"
    return ParameterError(
        f"{option}: the task {task.name} can't read this bucket. It is not that of {other}, so"
        f" Kubeflow opens it from the task's environment, {obstacle}",
        received=uri,
        remedy=f"in --runtime, give step {task.step} the variables by env and env_from_secret, or"
        f' store_identity = ["{bucket}"] if the pod\'s identity opens it; or let artifacts lie in'
        f" the same bucket: --pipeline-root {bucket}/artifacts{named}",
    )


def _check_own(task: _Task, parameter: str, uri: str) -> None:
    """Refuse a URI that the step opens itself, with nothing to open it with."""
    missing = _missing(task, uri, launcher=False)
    if missing:
        bucket = "://".join(_bucket(uri) or ())
        raise ParameterError(
            f"{task.name}: {parameter}: the step opens this store itself, and its environment"
            f" has no {missing}",
            received=uri,
            remedy=f"in --runtime, give step {task.step} them by env and env_from_secret, or"
            f' store_identity = ["{bucket}"] if the pod\'s identity opens it',
        )


def _missing(task: _Task, uri: str, *, launcher: bool) -> str:
    """Return the variables that `task` lacks for `uri`, with commas; "" for none."""
    if any(_is_below(uri, prefix) for prefix in task.identities):
        return ""
    there = task.environment
    if uri.startswith("gs:"):
        return "" if any(name in there for name in _GOOGLES) else _GOOGLES[0]
    missing: list[str] = []
    if not any(all(name in there for name in those) for those in (_KEYS, *_OTHER_CREDENTIALS)):
        missing += [name for name in _KEYS if name not in there]
    # The SDK of the launcher takes no request without a region, that of the step does.
    if launcher and not any(name in there for name in _REGIONS):
        missing.append(_REGIONS[0])
    if uri.startswith("minio:") and not _has_endpoint(task):
        missing.append(_ENDPOINTS[1])
    return ", ".join(missing)


def _has_endpoint(task: _Task) -> bool:
    return any(name in task.environment for name in _ENDPOINTS)


def _endpoint(task: _Task) -> str:
    """Return the address of the store, where the package holds it; else ""."""
    given = (task.environment[name] for name in _ENDPOINTS if name in task.environment)
    return next(given, None) or ""


def _is_cluster_name(endpoint: str) -> bool:
    """Return whether a URL names a Service, below which there are no further hosts."""
    host = urlsplit(endpoint).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.count(".") < 2 or re.search(r"[.]svc([.]|$)", host) is not None
    return False


def _bucket(uri: str) -> tuple[str, str] | None:
    """Return the scheme and bucket of a URI; None for what is in no store."""
    result = _BUCKET.match(uri)
    return (result[1], result[2]) if result else None


def _is_below(uri: str, prefix: str) -> bool:
    return uri == prefix or uri.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _tasks(package: Package) -> Iterator[_Task]:
    spec = package.spec.get("pipeline_spec", package.spec)
    executors = spec["deploymentSpec"]["executors"]
    kubernetes = package.spec.get("platform_spec", {}).get("platforms", {}).get("kubernetes", {})
    pods = kubernetes.get("deploymentSpec", {}).get("executors", {})
    tasks = spec["root"]["dag"]["tasks"]
    labels = {
        name: spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
        for name, task in tasks.items()
    }
    imported = {
        name: _source_of(tasks[name], executors[label]["importer"])
        for name, label in labels.items()
        if "importer" in executors.get(label, {})
    }
    for name, task in tasks.items():
        if "container" not in executors.get(labels[name], {}):
            continue
        inputs = task.get("inputs", {})
        producers = (
            item.get("taskOutputArtifact", {}).get("producerTask")
            for item in inputs.get("artifacts", {}).values()
        )
        constants = {
            key: item.get("runtimeValue", {}).get("constant")
            for key, item in inputs.get("parameters", {}).items()
        }
        pod = pods.get(labels[name], {})
        yield _Task(
            name,
            _step(executors[labels[name]]["container"]) or name,
            tuple(
                imported[producer] for producer in producers if imported.get(producer) in SOURCES
            ),
            {
                key: item
                for key, item in constants.items()
                if isinstance(item, str) and _bucket(item)
            },
            _environment(executors[labels[name]]["container"], pod),
            tuple(
                pod.get("podMetadata", {}).get("annotations", {}).get(STORE_IDENTITY, "").split()
            ),
        )


def _source_of(task: Mapping[str, Any], importer: Mapping[str, Any]) -> str:
    """Return the pipeline's parameter that an importer takes its URI from; "" for none."""
    parameter = importer["artifactUri"].get("runtimeParameter", "")
    given = task.get("inputs", {}).get("parameters", {}).get(parameter, {})
    return str(given.get("componentInputParameter", ""))


def _step(container: Mapping[str, Any]) -> str:
    """Return the name of the step in a command of ours: paring step NAME; "" for others."""
    command = container.get("command", [])
    return str(command[2]) if command[:2] == ["paring", "step"] and len(command) > 2 else ""


def _environment(container: Mapping[str, Any], pod: Mapping[str, Any]) -> dict[str, str | None]:
    result: dict[str, str | None] = {
        item["name"]: item.get("value", "") for item in container.get("env", [])
    }
    for source in (*pod.get("secretAsEnv", []), *pod.get("configMapAsEnv", [])):
        result |= dict.fromkeys(entry["envVar"] for entry in source.get("keyToEnv", []))
    return result
