"""The cluster's commands as a user meets them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer
from tests.pipelines.conftest import Paring
from tests.pipelines.kubeflow.conftest import Compile

from paring.artifacts import Report, SelectedModel, Selection

pytestmark = pytest.mark.usefixtures("endpoint")


def test_submit_status_and_fetch(
    paring: Paring,
    server: KfpServer,
    compiled: Compile,
    model: str,
    examples: str,
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    given = ("--package", compiled(), "--model", model, "--examples", examples)
    submit = ("submit", *given)
    code, first, _ = paring(*submit)
    assert (code, first.split()[-1]) == (0, "submitted")
    code, again, _ = paring(*submit)
    assert again.split()[:2] == first.split()[:2]
    assert again.rstrip().endswith("was submitted before")

    name, run_id = first.split()[:2]
    code, shown, _ = paring("status")
    assert name in shown
    server.play(run_id)
    for wanted in (name, run_id):
        code, shown, _ = paring("status", wanted, "--json")
        result = json.loads(shown)
        assert (code, result["name"], result["state"]) == (0, name, "SUCCEEDED")
        assert [node["name"] for node in result["nodes"]] == ["import-model", "import-examples"]

    for task, artifact in (
        ("select", SelectedModel(root / "small" / run_id / "select" / "selected")),
        ("select", Selection(root / "small" / run_id / "select" / "selection")),
        ("report", Report(root / "small" / run_id / "report" / "report")),
    ):
        artifact.path.mkdir(parents=True)
        (artifact.path / "selection.json").write_text(task)
        (artifact.path / "report.html").write_text(task)
        artifact.save()
    code, shown, _ = paring("fetch", name, "--out", tmp_path / "out", "--pipeline-root", root)
    assert code == 0
    assert (tmp_path / "out" / "report.html").read_text() == "report"


def test_a_run_that_failed_can_have_another_attempt(
    paring: Paring, server: KfpServer, compiled: Compile, model: str, examples: str
) -> None:
    submit = ("submit", "--package", compiled(), "--model", model, "--examples", examples)
    _, first, _ = paring(*submit)
    server.finish(first.split()[1], "FAILED")
    _, again, _ = paring(*submit)
    assert "--attempt 2" in again
    paring(*submit, "--attempt", 2)
    assert len(server.runs()) == 2


def test_submit_compiles_by_itself_with_the_options_of_compile(
    paring: Paring, server: KfpServer, model: str, examples: str, tmp_path: Path
) -> None:
    recipes = tmp_path / "recipes.toml"
    recipes.write_text('[recipes.float32]\nsteps = [{ step = "convert_tflite" }]\n')
    given = ("--model", model, "--examples", examples, "--recipes", recipes)
    code, _, error = paring("submit", *given, "--image", "registry/paring:1")
    assert code == 0, error
    (run,) = server.runs()
    assert run["display_name"].startswith("paring-optimize-")
    executors = run["pipeline_spec"]["deploymentSpec"]["executors"]
    assert executors["exec-select"]["container"]["image"] == "registry/paring:1"


def test_schedule_says_how_it_read_the_cron(
    paring: Paring, server: KfpServer, compiled: Compile
) -> None:
    given = ("--package", compiled(), "--model", "gs://b/m", "--examples", "gs://b/e")
    given += ("--pipeline-root", "gs://b/root")
    code, shown, _ = paring("schedule", *given, "--cron", "30 3 * * *", "--name", "nightly")
    assert code == 0
    assert "second 0, minute 30, hour 3" in shown
    code, shown, _ = paring("schedule", *given, "--cron", "@hourly", "--name", "nightly")
    assert "in the place of 1" in shown
    assert [schedule["status"] for schedule in server.schedules()] == ["ENABLED"]


def test_watch_once_tells_its_lag_as_json_and_as_metrics(
    paring: Paring, server: KfpServer, compiled: Compile, examples: str, tmp_path: Path
) -> None:
    output = tmp_path / "pushed" / "1700000000"
    output.mkdir(parents=True)
    (output / "saved_model.pb").touch()
    (output / "_SUCCESS").touch()
    code, _, error = paring(
        *("--log-format", "json", "watch", "--once", "--package", compiled()),
        *("--source", tmp_path / "pushed", "--state", tmp_path / "claims"),
        *("--marker", "_SUCCESS", "--examples", examples),
        *("--metrics-file", tmp_path / "metrics" / "paring.prom"),
    )
    assert code == 0, error
    lines = [json.loads(line) for line in error.splitlines()]
    warned = [line for line in lines if line["event"] == "warning"]
    assert [item["warning"].partition(":")[0] for item in warned] == ["--source", "--examples"]
    lines = [line for line in lines if line not in warned]
    assert [item["event"] for item in lines] == ["submitted", "looked"]
    assert lines[0]["output"] == str(output)
    assert lines[0]["run"] == server.runs()[0]["run_id"]
    assert 0 <= lines[0]["lag_seconds"] < 60
    text = (tmp_path / "metrics" / "paring.prom").read_text()
    assert "paring_watch_submissions_total 1.0" in text
    assert "paring_watch_lag_seconds_count 1.0" in text


def test_watch_goes_through_a_store(
    paring: Paring, server: KfpServer, compiled: Compile, bucket: str
) -> None:
    from paring.storage import write_text

    root = f"s3://{bucket}"
    write_text(f"{root}/examples.npz", "arrays")
    for version in (1, 2):
        write_text(f"{root}/pushed/{version}/saved_model.pb", "graph")
    watch = (
        *("watch", "--once", "--package", compiled(), "--settle", 0, "--state", f"{root}/claims"),
        *("--source", f"{root}/pushed", "--examples", f"{root}/examples.npz"),
        *("--pipeline-root", f"{root}/artifacts"),
    )
    assert paring(*watch)[0] == paring(*watch)[0] == 0
    models = [run["runtime_config"]["parameters"]["model_uri"] for run in server.runs()]
    assert models == [f"{root}/pushed/1", f"{root}/pushed/2"]


def test_watch_goes_on_until_it_is_stopped(
    server: KfpServer, compiled: Compile, examples: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "paring_pipelines.cli.main", "watch", "--interval", "0.05"]
    command += ["--source", str(tmp_path / "pushed"), "--state", str(tmp_path / "claims")]
    command += ["--package", str(compiled()), "--marker", "_SUCCESS", "--examples", examples]
    with subprocess.Popen(
        [*command, "--host", server.url, "--metrics-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as watcher:
        assert watcher.stdout is not None
        result = [watcher.stdout.readline(), watcher.stdout.readline()]
        output = tmp_path / "pushed" / "a"
        output.mkdir(parents=True)
        (output / "_SUCCESS").touch()
        end = time.monotonic() + 60
        while not server.runs() and time.monotonic() < end:
            time.sleep(0.05)
        watcher.terminate()
        _, error = watcher.communicate(timeout=60)
    assert result[0].startswith("answering Prometheus")
    assert result[1].startswith("looked")
    assert len(server.runs()) == 1
    assert watcher.returncode == 130, error
    assert f"{tmp_path / 'pushed'} does not exist yet" in error
    assert "interrupted; runs that were submitted go on" in error


@pytest.mark.parametrize("name", ["folder", "/dev/null", "."])
def test_a_file_of_metrics_that_can_not_be_written_ends_before_a_run_is_submitted(
    name: str,
    paring: Paring,
    server: KfpServer,
    compiled: Compile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "pushed" / "1").mkdir(parents=True)
    (tmp_path / "pushed" / "1" / "_SUCCESS").touch()
    code, _, error = paring(
        *("watch", "--once", "--package", compiled(), "--marker", "_SUCCESS"),
        *("--source", "pushed", "--state", "claims", "--examples", "e"),
        *("--metrics-file", name),
    )
    assert code == 15, error
    assert name in error
    assert server.runs() == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("status", "absent"), 20, "paring status"),
        (("status", "--host", "kubeflow"), 2, "http://"),
        (("submit", "--package", "/absent", "--model", "m", "--examples", "e"), 2, "--package"),
        (("fetch", "absent", "--out", "out"), 20, "no run"),
    ],
)
def test_bad_input_is_named(
    arguments: tuple[str, ...], code: int, named: str, paring: Paring
) -> None:
    result, _, error = paring(*arguments)
    assert result == code
    assert named in error
    assert "Traceback" not in error


def test_an_error_is_one_line_of_json_too(paring: Paring) -> None:
    code, _, error = paring("--log-format", "json", "status", "absent")
    (line,) = error.splitlines()
    result = json.loads(line)
    assert (result["level"], result["event"], result["exit_code"]) == (
        "error",
        "command failed",
        code,
    )
    assert result["received"] == "absent"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--once", "--metrics-port", "9000"), "--metrics-file"),
        (("--once", "--interval", "5"), "--interval"),
        (("--marker", "_SUCCESS", "--settle", "5"), "--settle"),
        (("--max-size-mb", "2"), "--max-size-mb"),
        (("--image", "other"), "--image"),
    ],
)
def test_options_that_would_be_of_no_account_are_refused(
    given: tuple[str, ...], named: str, paring: Paring, compiled: Compile, tmp_path: Path
) -> None:
    watch = ("watch", "--source", tmp_path, "--state", "/s", "--examples", "e")
    code, _, error = paring(*watch, "--package", compiled(), *given)
    assert code == 2
    assert named in error


def test_recipes_can_not_be_chosen_by_a_model_that_is_not_here(paring: Paring) -> None:
    code, _, error = paring("submit", *("--model", "m", "--examples", "e", "--recipes", "auto"))
    assert code == 2
    assert "paring advise" in error


def test_help_loads_none_of_what_talks_to_a_cluster() -> None:
    script = (
        "import sys\n"
        "from paring_pipelines.cli.main import main\n"
        "try:\n"
        "    main(['watch', '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'kfp', 'kfp_server_api', 'prometheus_client', 'fsspec', 'tensorflow'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
