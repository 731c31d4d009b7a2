"""Asking Kubeflow: what is asked again, what is not, and what a refusal says."""

import ipaddress
import socket
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.conformance.kfp_server import KfpServer

from paring.errors import ClusterError, ParameterError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection, connection
from paring_pipelines.kubeflow.package import Package
from paring_pipelines.kubeflow.submit import Plan, submit

IMPATIENT = {"timeout": 0.25, "first_wait": 0.01}


@pytest.mark.parametrize("fault", ["429", "500", "503", "stall", "dropped", "500 after", "cut"])
def test_what_can_be_asked_twice_is(fault: str, server: KfpServer, kubeflow: Kubeflow) -> None:
    server.faults.planned = [("GET .*/runs", fault)] * 2
    assert kubeflow.runs_named("none") == []
    assert server.requests.count("GET /apis/v2beta1/runs") == 3


def test_a_kubeflow_that_stays_away_is_named(server: KfpServer) -> None:
    server.faults.rates = {"503": 1.0}
    client = Kubeflow(Connection(server.url, namespace="team", attempts=3, **IMPATIENT))
    with pytest.raises(ClusterError, match="503") as raised:
        client.runs()
    assert server.url in str(raised.value)
    assert len(server.requests) == 3


def test_a_host_where_nothing_listens_is_named() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        client = Kubeflow(Connection(url, namespace="team", attempts=2, **IMPATIENT))
        with pytest.raises(ClusterError, match="can't be reached") as raised:
            client.runs()
    assert url in str(raised.value)


def test_a_server_without_tls_where_https_was_asked_for_is_named(server: KfpServer) -> None:
    url = server.url.replace("http:", "https:")
    client = Kubeflow(Connection(url, namespace="team", attempts=1, **IMPATIENT))
    with pytest.raises(ClusterError, match="can't be reached"):
        client.runs()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubeflow")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "server.pem"
    file.write_bytes(private + signed.public_bytes(pem))
    return file


def test_a_server_is_checked_by_the_certificates_that_are_named(
    certificate: Path, tmp_path: Path
) -> None:
    with KfpServer(tmp_path / "kfp.sqlite", certificate=certificate) as server:
        environment = {"KFP_ENDPOINT": server.url}
        with pytest.raises(ClusterError, match="certificate verify failed"):
            Kubeflow(connection(environment=environment)).runs()
        environment["KFP_SSL_CA_CERT"] = "/absent.pem"
        with pytest.raises(ParameterError, match=r"/absent\.pem"):
            connection(environment=environment)
        environment["KFP_SSL_CA_CERT"] = str(certificate)
        assert Kubeflow(connection(environment=environment)).runs() == []


def test_a_page_to_log_in_on_is_not_taken_for_an_answer(
    server: KfpServer, kubeflow: Kubeflow
) -> None:
    server.login = True
    with pytest.raises(ClusterError, match="text/html") as raised:
        kubeflow.runs_named("any")
    assert "KFP_EXISTING_TOKEN" in raised.value.remedy


def test_a_token_is_sent_and_never_shown(tmp_path: Path) -> None:
    with KfpServer(tmp_path / "kfp.sqlite", token="secret-token") as server:
        given = connection(environment={"KFP_ENDPOINT": server.url})
        with pytest.raises(ClusterError, match="401") as raised:
            Kubeflow(given).runs()
        assert "KFP_EXISTING_TOKEN" in raised.value.remedy
        environment = {"KFP_ENDPOINT": server.url, "KFP_EXISTING_TOKEN": "secret-token"}
        given = connection(environment=environment)
        assert Kubeflow(given).runs() == []
        assert "secret-token" not in repr(given)


def test_a_mounted_token_is_read_anew_for_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    with KfpServer(tmp_path / "kfp.sqlite", token="new") as server:
        environment = {"KFP_ENDPOINT": server.url, "KF_PIPELINES_SA_TOKEN_PATH": str(file)}
        client = Kubeflow(connection(environment=environment))
        with pytest.raises(ClusterError, match="401"):
            client.runs()
        file.write_text("new\n")
        assert client.runs() == []


def test_a_mounted_token_that_is_not_there_is_named(tmp_path: Path, server: KfpServer) -> None:
    environment = {"KFP_ENDPOINT": server.url, "KF_PIPELINES_SA_TOKEN_PATH": "/absent/token"}
    with pytest.raises(ParameterError, match="/absent/token"):
        Kubeflow(connection(environment=environment)).runs()


def test_without_a_host_the_variable_is_named() -> None:
    with pytest.raises(ParameterError, match="KFP_ENDPOINT"):
        connection(environment={})


def test_a_host_without_a_scheme_is_refused() -> None:
    with pytest.raises(ParameterError, match="http://"):
        connection("kubeflow:8888", environment={})


def test_the_option_goes_before_the_environment() -> None:
    environment = {"KF_PIPELINES_ENDPOINT": "http://one/", "KFP_NAMESPACE": "team"}
    assert connection(environment=environment).host == "http://one"
    result = connection("http://two", "mine", environment=environment)
    assert (result.host, result.namespace) == ("http://two", "mine")


def test_several_users_need_a_namespace(
    tmp_path: Path, package: Package, model: str, examples: str
) -> None:
    with KfpServer(tmp_path / "kfp.sqlite", multi_user=True) as server:
        with pytest.raises(ParameterError, match="--namespace"):
            Kubeflow(Connection(server.url, **IMPATIENT)).runs()
        client = Kubeflow(Connection(server.url, namespace="team", **IMPATIENT))
        submit(client, Plan(package), model=model, examples=examples, digest="sha256:1")
        assert [run["namespace"] for run in server.runs()] == ["team"]
        other = Kubeflow(Connection(server.url, namespace="other", **IMPATIENT))
        assert other.runs() == []
        assert server.violations == []


def test_all_pages_of_a_listing_are_read(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    submit(kubeflow, Plan(package), model=model, examples=examples, digest="sha256:1")
    (first,) = server.runs()
    for number in range(119):
        server.store.add("run", {**first, "run_id": str(number)}, name="another")
    assert len(kubeflow.runs(limit=110)) == 110
    assert len(kubeflow.runs(limit=500)) == 120


@pytest.fixture
def _no_warnings() -> Iterator[None]:
    # kfp.Client says at each start which releases of Kubeflow it works with.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@pytest.mark.usefixtures("_no_warnings")
def test_the_servers_checks_hold_for_kfps_own_client(
    server: KfpServer, package: Package, model: str, examples: str
) -> None:
    import kfp

    client = kfp.Client(host=server.url)
    experiment = client.create_experiment("by hand").experiment_id
    parameters = {"model_uri": model, "examples_uri": examples}
    client.run_pipeline(experiment, "one", str(package.path), params=parameters)
    pipeline = client.upload_pipeline(str(package.path), pipeline_name="small").pipeline_id
    version = client.upload_pipeline_version(
        str(package.path), pipeline_version_name="second", pipeline_id=pipeline
    ).pipeline_version_id
    client.create_recurring_run(
        experiment,
        "nightly",
        cron_expression="0 0 3 * * *",
        no_catchup=True,
        params=parameters,
        pipeline_id=pipeline,
        version_id=version,
    )
    assert [run["display_name"] for run in server.runs()] == ["one"]
    assert [schedule["status"] for schedule in server.schedules()] == ["ENABLED"]


def test_the_server_refuses_what_the_api_does_not_declare(tmp_path: Path) -> None:
    import kfp_server_api as api

    with KfpServer(tmp_path / "kfp.sqlite") as server:
        configuration = api.Configuration()
        configuration.host = server.url
        runs = api.RunServiceApi(api.ApiClient(configuration))
        for body in (
            {"display_name": "one", "colour": "red"},
            {"display_name": 1},
            {"display_name": "one", "run_id": "mine"},
            {"description": "no name"},
            {"display_name": "one", "state": "HAPPY"},
        ):
            with pytest.raises(api.ApiException, match="Invalid input"):
                runs.run_service_create_run(body)
        with pytest.raises(api.ApiException, match="Invalid input"):
            runs.run_service_list_runs(filter='{"predicates": [{"operation": "LIKE"}]}')
        assert len(server.violations) == 6
        assert server.runs() == []
