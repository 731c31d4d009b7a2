"""One run for one source and one plan, whatever becomes of the requests."""

import threading
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer

from paring.errors import ClusterError, ExamplesError, ModelError, ParameterError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.package import Package, parse_parameters, read_package
from paring_pipelines.kubeflow.sources import source_digest
from paring_pipelines.kubeflow.submit import Plan, submit, submit_claimed

DIGEST = "sha256:" + 64 * "a"
CREATE = "POST /apis/v2beta1/runs"


def test_submitting_again_returns_the_first_run(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    first = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    again = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    assert (first.new, again.new) == (True, False)
    assert again.first.id == first.first.id
    assert len(server.runs()) == 1
    (run,) = server.runs()
    assert run["runtime_config"]["parameters"] == {
        "model_uri": model,
        "examples_uri": examples,
        "source_digest": DIGEST,
    }


def test_another_source_plan_or_attempt_is_another_run(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    plan = Plan(package)
    other = Plan(package, pipeline_root="s3://bucket/root")
    for item, digest in [
        (plan, DIGEST),
        (plan, "sha256:" + 64 * "b"),
        (other, DIGEST),
        (Plan(package, caching=False), DIGEST),
        (Plan(package, attempt=2), DIGEST),
        # Where it is filed says nothing about what it does.
        (Plan(package, experiment="elsewhere"), DIGEST),
    ]:
        submit(kubeflow, item, model=model, examples=examples, digest=digest)
    assert len(server.runs()) == 5


@pytest.mark.parametrize(
    "faults",
    [
        ["429", "429"],
        ["500"],
        ["500 after"],
        ["503", "503"],
        ["taken"],
        ["stall"],
        ["stall after"],
        ["late"],
        ["stall", "429", "late"],
        ["dropped"],
        ["dropped after"],
        ["cut"],
        ["dropped", "cut"],
    ],
)
def test_whatever_becomes_of_a_request_there_is_one_run(
    faults: list[str],
    server: KfpServer,
    kubeflow: Kubeflow,
    package: Package,
    model: str,
    examples: str,
) -> None:
    server.faults.planned = [(f"{CREATE}$", fault) for fault in faults]
    made = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    assert server.faults.planned == [], "not every fault was met"
    server.settled()
    assert [run["run_id"] for run in server.runs()] == [made.first.id]


def test_a_run_that_two_started_in_the_same_moment_is_taken_back(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    names = [
        submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST).first.name
    ]
    # As another client would that had looked before the first run was there.
    first = server.runs()[0]
    second = {**first, "run_id": "z", "created_at": "2099-01-01T00:00:00Z"}
    server.store.add("run", second, name=first["name"])
    made = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    assert [run["run_id"] for run in server.runs()] == [first["run_id"]] == [made.first.id]
    assert names == [made.first.name]


def test_what_many_that_submit_at_once_print_is_what_stays(
    server: KfpServer, package: Package, model: str, examples: str
) -> None:
    # Runs are listed in another order than they are dated in.
    server.slowness = 0.3
    printed: list[str] = []

    def go() -> None:
        client = Kubeflow(Connection(server.url, timeout=5.0, first_wait=0.01))
        printed.append(
            submit(client, Plan(package), model=model, examples=examples, digest=DIGEST).first.id
        )

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = server.runs()
    assert printed == [run["run_id"]] * 6
    assert server.requests.count(CREATE) == 1
    assert [row["name"] for row in server.store.rows("experiment")] == ["paring"], "locks stay"


def test_of_many_that_submit_at_once_one_run_is_left(
    server: KfpServer, package: Package, model: str, examples: str, tmp_path: Path
) -> None:
    failed: list[Exception] = []

    def go() -> None:
        client = Kubeflow(Connection(server.url, timeout=5.0, first_wait=0.01))
        try:
            submit_claimed(
                client,
                Plan(package),
                model=model,
                examples=examples,
                digest=DIGEST,
                state=str(tmp_path / "claims"),
            )
        except ClusterError as error:
            failed.append(error)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.runs()) == 1
    assert server.requests.count(CREATE) == 1, "only who has the claim asks for a run"
    assert all("another is submitting" in str(item) for item in failed)


def test_a_refusal_says_why_and_is_not_repeated(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    spec = {**package.spec, "schemaVersion": "1.0"}
    broken = Package(package.path, package.name, spec, package.inputs, package.required)
    with pytest.raises(ClusterError, match="this schema is not taken"):
        submit(kubeflow, Plan(broken), model=model, examples=examples, digest=DIGEST)
    assert server.requests.count(CREATE) == 1


def test_caching_can_be_turned_off_for_every_task(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    submit(kubeflow, Plan(package, caching=False), model=model, examples=examples, digest=DIGEST)
    tasks = server.runs()[0]["pipeline_spec"]["root"]["dag"]["tasks"].values()
    assert [task["cachingOptions"] for task in tasks] == [{}] * len(tasks)


def test_the_platforms_part_of_a_package_goes_along(
    server: KfpServer,
    kubeflow: Kubeflow,
    package: Package,
    model: str,
    examples: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "placed.yaml"
    platform = "platforms:\n  kubernetes:\n    deploymentSpec:\n      executors: {}\n"
    file.write_text(f"{package.path.read_text()}\n---\n{platform}")
    placed = read_package(file)
    submit(kubeflow, Plan(placed), model=model, examples=examples, digest=DIGEST)
    spec = server.runs()[0]["pipeline_spec"]
    assert spec["platform_spec"] == {
        "platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}
    }
    assert placed.digest() != package.digest()


def test_the_digest_follows_content_and_place(model: str, examples: str, tmp_path: Path) -> None:
    before = source_digest(model, examples)
    assert source_digest(f"{model}/", examples) == before
    Path(model, "saved_model.pb").write_bytes(b"other")
    after = source_digest(model, examples)
    assert after != before
    Path(model).rename(tmp_path / "moved")
    assert source_digest(str(tmp_path / "moved"), examples) != after


def test_sources_that_are_not_there_are_named(model: str, examples: str) -> None:
    with pytest.raises(ModelError, match="--model"):
        source_digest("/absent", examples)
    with pytest.raises(ExamplesError, match="--examples"):
        source_digest(model, "/absent")


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "holds no pipeline"), ("a: [", "no pipeline"), ("schemaVersion: 1.0.0", "schemaVersion")],
)
def test_a_file_that_is_no_package_is_named(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=named):
        read_package(file)


def test_parameters_are_checked_before_anything_is_asked(
    server: KfpServer, kubeflow: Kubeflow, package: Package, model: str, examples: str
) -> None:
    with pytest.raises(ParameterError, match="model_uri"):
        submit(
            kubeflow,
            Plan(package, {"model_url": "x"}),
            model=model,
            examples=examples,
            digest=DIGEST,
        )
    assert server.requests == []


def test_parameters_become_the_pipelines_own_types(package: Package) -> None:
    inputs = {**package.inputs, "n": "NUMBER_INTEGER", "x": "NUMBER_DOUBLE", "on": "BOOLEAN"}
    wide = Package(package.path, package.name, package.spec, inputs, frozenset())
    assert wide.parameters({"n": "3", "x": "0.5", "on": "true"}) == {"n": 3, "x": 0.5, "on": True}
    for name, text in [("n", "0.5"), ("n", "true"), ("x", "many"), ("on", "1")]:
        with pytest.raises(ParameterError, match="of type"):
            wide.parameters({name: text})


def test_what_options_are_for_is_no_parameter() -> None:
    assert parse_parameters(["a=b=c"]) == {"a": "b=c"}
    for text in ("a", "=b", "model_uri=x", "source_digest=x"):
        with pytest.raises(ParameterError, match="--parameter"):
            parse_parameters([text])
