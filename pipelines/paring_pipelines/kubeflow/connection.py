"""Address and credentials of Kubeflow Pipelines, from options and the environment alone."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from paring.errors import ParameterError
from paring_pipelines.kubeflow.formats import check_namespace

HOSTS = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
"""The variables that name the host: that of kfp's command, and that of its client."""

TOKEN = "KFP_EXISTING_TOKEN"
"""The variable that kfp's command takes a bearer token from."""

TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
"""The variable that kfp's client takes the path of a projected token from."""

_DEFAULT_TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Connection:
    """Address, credentials and time-outs of the requests to Kubeflow Pipelines.

    Attributes:
        host: The API's URL, with http:// or https://.
        namespace: The user's namespace where Kubeflow has several users; "" for none.
        token: A bearer token; "" for none. Never shown.
        token_file: A file that holds one and is read for each request; "" for none.
        ca_file: Certificates to check the server's by; "" for those of certifi.
        timeout: Seconds to wait for a connection, and for each answer.
        attempts: How often a request is sent that Kubeflow can't take at the moment.
        first_wait: Seconds before the second attempt; each further wait is twice as long.
    """

    host: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    timeout: float = 30.0
    attempts: int = 6
    first_wait: float = 0.5


def connection(
    host: str | None = None,
    namespace: str | None = None,
    *,
    timeout: float = 30.0,
    environment: Mapping[str, str] = os.environ,
) -> Connection:
    """Return the connection that the options state, completed from the environment.

    Args:
        host: Of the option; KFP_ENDPOINT or KF_PIPELINES_ENDPOINT if not given.
        namespace: Of the option; KFP_NAMESPACE if not given.
        timeout: Seconds to wait for an answer.
        environment: Also KFP_EXISTING_TOKEN, KF_PIPELINES_SA_TOKEN_PATH and
            KFP_SSL_CA_CERT.

    Raises:
        ParameterError: There is no host, it is no URL of http or https, the namespace can
            be none, or the file of certificates is not there.
    """
    result = host or next((environment[name] for name in HOSTS if environment.get(name)), "")
    if not result:
        raise ParameterError(
            "where Kubeflow Pipelines is, is not known",
            remedy=f"give --host URL or set {HOSTS[0]}, such as"
            " http://ml-pipeline.kubeflow.svc.cluster.local:8888",
        )
    _check_url(result)
    chosen = namespace or environment.get("KFP_NAMESPACE", "")
    if chosen:
        check_namespace("--namespace" if namespace else "KFP_NAMESPACE", chosen)
    ca_file = environment.get("KFP_SSL_CA_CERT", "")
    if ca_file and not Path(ca_file).is_file():
        raise ParameterError(
            "KFP_SSL_CA_CERT: there is no such file", received=ca_file, remedy="name a PEM file"
        )
    token = environment.get(TOKEN, "")
    token_file = environment.get(TOKEN_FILE, "")
    if not (token or token_file) and Path(_DEFAULT_TOKEN_FILE).is_file():
        token_file = _DEFAULT_TOKEN_FILE
    return Connection(
        host=result.rstrip("/"),
        namespace=chosen,
        token=token,
        token_file="" if token else token_file,
        ca_file=ca_file,
        timeout=timeout,
    )


def _check_url(host: str) -> None:
    """Refuse what is no URL of a server, before a request fails at it."""
    if not host.startswith(("http://", "https://")):
        raise ParameterError(
            "--host: this is no URL", received=host, remedy="begin it with http:// or https://"
        )
    problem = "it names no server"
    try:
        # The port is parsed when it is accessed.
        parts = urlsplit(host)
        valid = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", host)
    except ValueError as error:
        valid, problem = False, str(error)
    if not valid:
        raise ParameterError(
            f"--host: this is no URL ({problem})",
            received=host,
            remedy="write http://NAME:PORT, with a port from 1 to 65535",
        )


def pod_namespace() -> str:
    """Return the namespace of the pod that this runs in; "" outside a cluster."""
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.is_file() else ""
