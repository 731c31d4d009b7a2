"""Kubeflow's default pipeline root, read from the cluster's own API.

Kubeflow Pipelines' API does not report it. It is in the ConfigMap `kfp-launcher` of the
namespace in which a run takes place.
"""

import os
from urllib.parse import urlsplit

from paring.errors import ParameterError, first_line
from paring_pipelines.kubeflow.connection import pod_namespace

CONFIG_MAP = "kfp-launcher"
_KEY = "defaultPipelineRoot"

BUILT_IN_ROOT = "minio://mlpipeline/v2/artifacts"
"""Where Kubeflow keeps artifacts if nothing names another place."""

TIMEOUT = 10.0
"""Longest wait in seconds for the cluster's API, where a command can do without its answer."""

_NAMESPACE = "kubeflow"
_REMEDY = (
    f"give --pipeline-root: {_KEY} in the ConfigMap {CONFIG_MAP} of its namespace, or"
    f" {BUILT_IN_ROOT} if that is empty"
)


def default_root(namespace: str, *, timeout: float) -> str:
    """Return the URI below which Kubeflow keeps the artifacts of runs that name none.

    Requests use the account of the pod, or outside a cluster that of the kubeconfig.

    Args:
        namespace: Of the runs.
        timeout: Seconds to wait for an answer.

    Raises:
        ParameterError: The cluster can't be reached, or does not let this account read it.
    """
    # Late: these take a moment to import, and most commands do without.
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    settings = client.Configuration()
    settings.retries = False
    try:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            # The library itself reads the variable once, when it is imported.
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(file, client_configuration=settings)
        core = client.CoreV1Api(client.ApiClient(settings))
        result = core.read_namespaced_config_map(CONFIG_MAP, namespace, _request_timeout=timeout)
    except ApiException as error:
        if error.status == 404:
            # Kubeflow takes its own default then.
            return BUILT_IN_ROOT
        raise _unknown(namespace, f"the cluster answered {error.status} {error.reason}") from error
    except (config.ConfigException, HTTPError, OSError) as error:
        raise _unknown(namespace, first_line(error)) from error
    return str((result.data or {}).get(_KEY) or BUILT_IN_ROOT)


def runs_namespace(host: str, namespace: str) -> str:
    """Return the Kubernetes namespace in which runs take place.

    Args:
        host: URL of Kubeflow Pipelines' API.
        namespace: The user's; "" where Kubeflow has one user for all, whose runs take
            place in the namespace of the API.
    """
    service, _, rest = (urlsplit(host).hostname or "").partition(".")
    named = rest.partition(".")[0] if service == "ml-pipeline" else ""
    return namespace or named or pod_namespace() or _NAMESPACE


def _unknown(namespace: str, why: str) -> ParameterError:
    return ParameterError(
        f"Kubeflow's default pipeline root could not be read in namespace {namespace}",
        received=why,
        remedy=_REMEDY,
    )
