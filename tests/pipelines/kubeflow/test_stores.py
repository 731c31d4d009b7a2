"""Stores that the tasks of a package can open, and the errors about others."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer
from tests.pipelines.conftest import Paring

from paring.artifacts import Examples, Model
from paring.catalog import STEPS
from paring.errors import ParameterError
from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.package import Package, read_package
from paring_pipelines.kubeflow.placement_rules import place
from paring_pipelines.kubeflow.stores import check_stores
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.settings import Settings

OPTIONS = {"model_uri": "--model", "examples_uri": "--examples"}
IN_THE_ROOT = "minio://mlpipeline/training"
KEYS = 'env_from_secret = [{ name = "k", keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] }]\n'
REGION = 'env = { AWS_REGION = "eu-west-1" }\n'
ON_IMPORTS = '[[place]]\nstep = "import_*"\n'

Compiled = Callable[..., Path]


@pytest.fixture
def packed(tmp_path: Path) -> Compiled:
    """Compiles a pipeline with rules: two imports if no other is given."""
    numbers = itertools.count()

    def pack(rules: str = "", dag: Dag | None = None) -> Path:
        dag = dag or _imports()
        file = tmp_path / f"runtime-{next(numbers)}.toml"
        file.write_text(rules)
        out = file.with_suffix(".yaml")
        compile_dag(dag, out, image="i", placements=place(dag, [file], target="cpu-server"))
        return out

    return pack


def _imports() -> Dag:
    dag = Dag("small", {"model": Model, "examples": Examples})
    model = dag.add("import_model", STEPS["import_model"], {"original": dag.source("model")})
    inputs = {"original": dag.source("examples"), "model": model.out("model")}
    dag.add("import_examples", STEPS["import_examples"], inputs)
    return dag


def _check(file: Path, model: str, examples: str = IN_THE_ROOT, root: str = "") -> list[str]:
    package: Package = read_package(file)
    return check_stores(
        package,
        options=OPTIONS,
        uris={"model_uri": model, "examples_uri": examples},
        pipeline_root=root,
    )


def test_sources_in_the_bucket_of_the_pipeline_root_need_nothing(packed: Compiled) -> None:
    file = packed()
    assert _check(file, IN_THE_ROOT) == []
    for scheme in ("s3", "gs", "minio"):
        uri = f"{scheme}://training/models"
        assert _check(file, uri, uri, root=f"{scheme}://training/artifacts?region=x") == []


@pytest.mark.parametrize(
    ("uri", "root", "missing"),
    [
        ("s3://training/m", "", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION;"),
        # The bucket's name is not enough: Kubeflow compares the scheme too.
        ("s3://mlpipeline/m", "", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION;"),
        ("minio://training/m", "", "AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL;"),
        ("gs://training/m", "s3://training/root", "GOOGLE_APPLICATION_CREDENTIALS;"),
        ("s3://training/m", "s3://training-2/root", "AWS_ACCESS_KEY_ID"),
    ],
)
@pytest.mark.parametrize("option", ["--model", "--examples"])
def test_another_bucket_without_an_environment_is_refused_by_what_is_missing(
    packed: Compiled, uri: str, root: str, missing: str, option: str
) -> None:
    inside = f"{root.rpartition('/')[0] or 'minio://mlpipeline'}/e"
    sources = (uri, inside) if option == "--model" else (inside, uri)
    with pytest.raises(ParameterError) as caught:
        _check(packed(), *sources, root=root)
    text = str(caught.value)
    task = "import-model" if option == "--model" else "import-examples"
    assert f"{option}: the task {task} can't read this bucket" in text
    # As rules name it, not as Kubeflow names tasks.
    assert f"give step {task.replace('-', '_')} the variables" in text
    assert missing.rstrip(";") in text
    assert caught.value.received == uri
    bucket = uri.removesuffix("/m")
    assert f'store_identity = ["{bucket}"]' in text
    assert f"--pipeline-root {bucket}/artifacts" in text
    # Only where nobody named the root may another one be Kubeflow's default.
    assert ("kfp-launcher" in text) == (root == "")


@pytest.mark.parametrize(
    ("uri", "fields"),
    [
        ("s3://training/m", REGION + KEYS),
        (
            "s3://training/m",
            'env = { AWS_DEFAULT_REGION = "a", AWS_PROFILE = "p" }\n',
        ),
        (
            "s3://training/m",
            'env_from_config_map = [{ name = "irsa", keys = ["AWS_REGION", "AWS_ROLE_ARN",'
            ' "AWS_WEB_IDENTITY_TOKEN_FILE"] }]\n',
        ),
        (
            "minio://training/m",
            'env = { AWS_REGION = "a", AWS_ENDPOINT_URL = "http://10.96.1.2:9000" }\n' + KEYS,
        ),
        ("gs://training/m", 'env = { GOOGLE_APPLICATION_CREDENTIALS = "/etc/key/key.json" }\n'),
        ("gs://training/m", 'store_identity = ["gs://"]\n'),
        ("s3://training/m", 'store_identity = ["s3://training"]\n'),
        ("s3://training/m", 'store_identity = ["gs://", "s3://training/m"]\n'),
    ],
)
def test_another_bucket_is_taken_with_an_environment_or_an_identity(
    packed: Compiled, uri: str, fields: str
) -> None:
    assert _check(packed(ON_IMPORTS + fields), uri, uri) == []


@pytest.mark.parametrize(
    ("uri", "fields", "missing"),
    [
        ("s3://training/m", KEYS, "has no AWS_REGION"),
        ("s3://training/m", REGION, "has no AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        ("s3://training/m", 'store_identity = ["s3://train"]\n', "has no AWS_ACCESS"),
        ("s3://training/m", 'store_identity = ["gs://"]\n', "has no AWS_ACCESS"),
        ("minio://training/m", REGION + KEYS, "has no AWS_ENDPOINT_URL"),
    ],
)
def test_half_an_environment_is_refused_by_the_other_half(
    packed: Compiled, uri: str, fields: str, missing: str
) -> None:
    with pytest.raises(ParameterError, match=missing):
        _check(packed(ON_IMPORTS + fields), uri)


def test_an_environment_of_one_import_alone_leaves_the_other_refused(packed: Compiled) -> None:
    file = packed(f'[[place]]\nnode = "import_model"\n{REGION}{KEYS}')
    assert _check(file, "s3://training/m") == []
    with pytest.raises(ParameterError, match="--examples: the task import-examples"):
        _check(file, "s3://training/m", "s3://training/e")


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("http://seaweedfs.kubeflow:9000", False),
        ("http://minio-service:9000", False),
        ("http://minio.store.svc.cluster.local:9000", False),
        ("http://10.96.1.2:9000", True),
        ("http://[fd00::1]:9000", True),
        ("https://s3.example.com", True),
    ],
)
def test_a_services_name_is_refused_where_the_bucket_would_stand_before_it(
    packed: Compiled, address: str, known: bool
) -> None:
    env = f'env = {{ AWS_REGION = "a", AWS_ENDPOINT_URL = "{address}" }}\n'
    file = packed(ON_IMPORTS + env + KEYS)
    # The root's own session names it in the path.
    assert _check(file, IN_THE_ROOT) == []
    if known:
        assert _check(file, "s3://training/m") == []
    else:
        with pytest.raises(ParameterError, match="at the host BUCKET"):
            _check(file, "s3://training/m")
        stated = f'{ON_IMPORTS}store_identity = ["s3://training"]\n{env}{KEYS}'
        assert _check(packed(stated), "s3://training/m") == []


def test_kubeflows_own_default_root_decides_where_it_can_be_read(packed: Compiled) -> None:
    calls: list[str] = []

    def default_root() -> str:
        calls.append("read")
        return "s3://training/root"

    def unreadable() -> str:
        raise ParameterError("no cluster")

    def check(model: str, root: Callable[[], str]) -> None:
        uris = {"model_uri": model, "examples_uri": model}
        check_stores(
            read_package(packed()), options=OPTIONS, uris=uris, pipeline_root="", default_root=root
        )

    check("s3://training/m", default_root)
    assert calls == ["read"]
    with pytest.raises(ParameterError, match="not that of the pipeline root s3://training/root"):
        check("s3://other/m", default_root)
    with pytest.raises(ParameterError, match="Kubeflow's default pipeline root minio://mlpipeline"):
        check("s3://training/m", unreadable)
    # Nothing is asked of the cluster where nothing would be refused.
    calls.clear()
    check(IN_THE_ROOT, default_root)
    assert calls == []


def test_a_store_that_a_step_opens_itself_needs_its_environment(packed: Compiled) -> None:
    # The root's session is the launcher's; our own code does not have it.
    pushing = build([], Settings(push_to="minio://mlpipeline/serving"))
    with pytest.raises(ParameterError, match=r"push: destination: .* AWS_ENDPOINT_URL"):
        _check(packed(dag=pushing), IN_THE_ROOT)
    # The region is the launcher's SDK's need, and a service's name stands in the path here.
    address = 'env = { AWS_ENDPOINT_URL = "http://seaweedfs.kubeflow:9000" }\n'
    rule = f'[[place]]\nstep = "push"\n{address}{KEYS}'
    assert _check(packed(rule, pushing), IN_THE_ROOT) == []
    identity = '[defaults]\nstore_identity = ["minio://mlpipeline/serving"]\n'
    assert _check(packed(identity, pushing), IN_THE_ROOT) == []


@pytest.mark.parametrize(
    "uri",
    [
        *("s3a://b/m", "abfs://c@account/m", "https://h/m", "pvc://claim/m", "S3://b/m"),
        *("FILE:///m", "hdfs://h/m", "://m", "s3://", "gs:///m", "minio://?region=x"),
    ],
)
@pytest.mark.parametrize("option", ["--model", "--examples"])
def test_what_no_importer_takes_is_refused(packed: Compiled, uri: str, option: str) -> None:
    sources = (uri, IN_THE_ROOT) if option == "--model" else (IN_THE_ROOT, uri)
    with pytest.raises(ParameterError, match=f"^{option}: ") as caught:
        # Whatever the tasks have, and wherever the root is.
        _check(packed(f"[defaults]\n{REGION}{KEYS}"), *sources, root="s3://b/root")
    assert caught.value.received == uri
    assert "://" in caught.value.remedy


def test_paths_are_warned_of_since_newer_importers_refuse_them(packed: Compiled) -> None:
    lines = _check(packed(), "/mnt/models/7", "file:///mnt/data.npz")
    assert [line.partition(":")[0] for line in lines] == ["--model", "--examples"]
    assert all("2.5 and later" in line for line in lines)


@pytest.mark.parametrize("command", ["submit", "schedule", "watch"])
def test_commands_check_stores_before_kubeflow_is_asked(
    paring: Paring,
    server: KfpServer,
    packed: Compiled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setenv("KFP_ENDPOINT", server.url)
    given = {
        "submit": ("--model", "s3://training/m", "--state", tmp_path / "state"),
        "schedule": ("--model", "s3://training/m", "--cron", "@hourly"),
        "watch": ("--source", "s3://training/m", "--state", tmp_path / "state", "--once"),
    }
    arguments = ("--package", packed(), "--examples", IN_THE_ROOT, *given[command])
    code, _, error = paring(command, *arguments)
    assert code == 2
    option = "--source" if command == "watch" else "--model"
    assert f"{option}: the task import-model can't read this bucket" in error
    assert (server.runs(), server.schedules()) == ([], [])
    assert not (tmp_path / "state").exists()
