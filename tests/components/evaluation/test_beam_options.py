"""Beam's options are read by Beam, and refused before anything is started."""

import json
import logging

import pytest

from paring.errors import ParameterError
from paring.evaluation.beam_options import read_beam_options

SHARED = "s3://bucket/shared"

COMPLETE = {
    "FlinkRunner": "--runner=FlinkRunner --job_endpoint=localhost:8099 --parallelism=4"
    " --environment_type=EXTERNAL --environment_config=localhost:50000",
    "SparkRunner": "--runner SparkRunner --job_endpoint localhost:8099"
    " --environment_type DOCKER --environment_config registry/paring@sha256:0",
    "PortableRunner": "--runner=PortableRunner --job_endpoint=localhost:8099"
    " --environment_type=LOOPBACK",
    "DataflowRunner": "--runner=DataflowRunner --project=project --region=europe-west1"
    " --temp_location=gs://bucket/temp --sdk_container_image=registry/paring",
}


def test_without_options_one_worker_runs_in_this_process() -> None:
    options = read_beam_options("", "")
    assert options.runner == "FnApiRunner"
    assert not options.is_remote
    assert "--direct_num_workers=1" in options.flags


def test_processes_on_this_machine_need_no_shared_folder() -> None:
    text = "--direct_num_workers=2 --direct_running_mode=multi_processing"
    options = read_beam_options(text, "")
    assert options.flags == (*text.split(), "--runner=FnApiRunner")
    with pytest.raises(ParameterError, match="shared_dir: the workers are on this machine"):
        read_beam_options(text, SHARED)


def test_processes_of_a_host_with_a_tpu_are_refused_and_others_are_not() -> None:
    text = "--direct_num_workers=2 --direct_running_mode=multi_processing"
    with pytest.raises(ParameterError, match="a TPU, which one process holds") as raised:
        read_beam_options(text, "").check_tpu()
    assert text in str(raised.value.received)
    threads = text.replace("multi_processing", "multi_threading")
    read_beam_options(threads, "").check_tpu()
    read_beam_options(COMPLETE["FlinkRunner"], SHARED).check_tpu()


@pytest.mark.parametrize("runner", COMPLETE)
def test_a_runner_elsewhere_is_taken_with_all_that_it_needs(runner: str) -> None:
    options = read_beam_options(COMPLETE[runner], SHARED)
    assert options.runner == runner
    assert options.is_remote
    with pytest.raises(ParameterError, match="shared_dir: the workers of"):
        read_beam_options(COMPLETE[runner], "")
    with pytest.raises(ParameterError, match="shared_dir: no store of this kind"):
        read_beam_options(COMPLETE[runner], "hdfs://host/folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--runner=PrismRunner", "PrismRunner is not used.*download"),
        ("--runner=FlinkRuner", r"no such runner[\s\S]*did you mean 'FlinkRunner'"),
        ("--direct_num_worker=2", r"no such option[\s\S]*did you mean 'direct_num_workers'"),
        ("--direct_num_workers=two", "invalid int value: 'two'"),
        ("--direct_num_workers=2", "in_memory is one worker"),
        ("--direct_num_workers=-2 --direct_running_mode=multi_processing", "can't be negative"),
        ("--direct_running_mode=processes", "invalid choice: 'processes'"),
        ("direct_num_workers=2", "belongs to no option"),
        ("--runner=FnApiRunner stray", "belongs to no option"),
        ("--runner='FnApiRunner", "No closing quotation"),
        ("--s3_secret_access_key=hidden", r"from the environment alone[^=]*s3_secret_access_key"),
        ("--job_endpoint=localhost:8099", "takes no job server"),
        ("--quite_unheard_of", r"no such option[\s\S]*quite_unheard_of"),
        ("--no_wait_until_finish", "there is no result"),
        ("-direct_num_workers=2", r"belongs to no option[\s\S]*write --direct_num_workers=2"),
        ("--sdk_worker_parallelism=2", "does nothing with FnApiRunner"),
        ("--runner=DirectRunner --environment_type=LOOPBACK", "does nothing with FnApiRunner"),
    ],
)
def test_what_cannot_run_here_is_refused(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as raised:
        read_beam_options(text, "")
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("runner", "without", "message"),
    [
        ("PortableRunner", "--job_endpoint=localhost:8099", "PortableRunner needs a job server"),
        ("FlinkRunner", "--job_endpoint=localhost:8099", "FlinkRunner needs a job server"),
        ("SparkRunner", "--job_endpoint localhost:8099", "SparkRunner needs a job server"),
        ("FlinkRunner", "--environment_config=localhost:50000", "environment that has Paring"),
        ("SparkRunner", "--environment_config registry/paring@sha256:0", "that has Paring"),
        ("DataflowRunner", "--project=project", "no project"),
        ("DataflowRunner", "--region=europe-west1", "no region"),
        ("DataflowRunner", "--temp_location=gs://bucket/temp", "no temp_location"),
        ("DataflowRunner", "--sdk_container_image=registry/paring", "no sdk_container_image"),
    ],
)
def test_a_runner_without_an_option_that_it_needs_is_refused(
    runner: str, without: str, message: str
) -> None:
    text = COMPLETE[runner]
    assert without in text
    with pytest.raises(ParameterError, match=message):
        read_beam_options(text.replace(without, ""), SHARED)


@pytest.mark.parametrize(
    ("changed", "to", "message"),
    [
        ("localhost:8099", "localhost", "job_endpoint: must be HOST:PORT"),
        ("localhost:8099", "localhost:grpc", "job_endpoint: must be HOST:PORT"),
        ("localhost:8099", "localhost:80990", "job_endpoint: must be HOST:PORT"),
        ("localhost:50000", "localhost", "environment_config: must be HOST:PORT"),
        ("EXTERNAL", "external", r"no such one[\s\S]*did you mean 'EXTERNAL'"),
        ("parallelism=4", "parallelism=0", "parallelism: must be 1 or more"),
        ("--runner", "--sdk_worker_parallelism=-1 --runner", "parallelism: must be 0 or more"),
        ("--runner", "--sdk_worker_parallelism=all --runner", "parallelism: must be 0 or more"),
    ],
)
def test_what_the_engine_would_stumble_over_is_refused(changed: str, to: str, message: str) -> None:
    text = COMPLETE["FlinkRunner"]
    assert changed in text
    with pytest.raises(ParameterError, match=message):
        read_beam_options(text.replace(changed, to), SHARED)


PROCESS = COMPLETE["PortableRunner"].replace("LOOPBACK", "PROCESS")


@pytest.mark.parametrize(
    "config", ["boot", "[]", "3", "{}", '{"command": 3}', '{"command": "a", "env": {"A": 1}}']
)
def test_a_process_that_can_not_be_started_is_refused(config: str) -> None:
    with pytest.raises(ParameterError, match="must be a JSON object") as raised:
        read_beam_options(f"{PROCESS} --environment_config='{config}'", SHARED)
    assert raised.value.received == config


@pytest.mark.parametrize("given", ["", " --environment_config=boot"])
def test_the_remedy_for_a_process_can_be_pasted(given: str) -> None:
    with pytest.raises(ParameterError) as raised:
        read_beam_options(f"{PROCESS}{given}", SHARED)
    start = str(raised.value.remedy).index("--environment_config")
    option = str(raised.value.remedy)[start:].removesuffix(", with the quotes")
    flags = read_beam_options(f"{PROCESS} {option}", SHARED).flags
    (config,) = (flag for flag in flags if flag.startswith("--environment_config="))
    assert json.loads(config.partition("=")[2]) == {"command": "FILE"}


def test_the_direct_runner_is_the_one_in_this_process(caplog: pytest.LogCaptureFixture) -> None:
    options = read_beam_options("--runner=DirectRunner --direct_num_workers=1", "")
    assert options.runner == "FnApiRunner"
    assert options.flags[-1] == "--runner=FnApiRunner"
    assert not options.is_remote
    assert "DirectRunner is FnApiRunner, in this process" in caplog.text


def test_reading_leaves_the_root_logger_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    read_beam_options("--runner=DirectRunner", "")
    assert logging.getLogger().handlers == []
    # As a warning is shown where nobody has set logging up.
    assert "DirectRunner is FnApiRunner" in capsys.readouterr().err


def test_what_beam_itself_refuses_is_refused() -> None:
    text = COMPLETE["DataflowRunner"].replace("gs://bucket/temp", "/tmp/here")
    with pytest.raises(ParameterError, match="Invalid GCS path"):
        read_beam_options(text, SHARED)
    text = COMPLETE["DataflowRunner"].replace("=project", "=My.Project")
    with pytest.raises(ParameterError, match="Invalid Project ID"):
        read_beam_options(text, SHARED)
    text = COMPLETE["FlinkRunner"] + " --environment_option=external_service_address=a:1"
    with pytest.raises(ParameterError, match="environment_config is incompatible"):
        read_beam_options(text, SHARED)


def test_a_cluster_is_reached_without_a_job_server_only_with_its_jar_at_hand() -> None:
    environment = "--environment_type=EXTERNAL --environment_config=localhost:50000"
    for cluster, jar in (
        ("--runner=FlinkRunner --flink_master=flink:8081", "--flink_job_server_jar=flink.jar"),
        (
            "--runner=SparkRunner --spark_master_url=spark://spark:7077",
            "--spark_job_server_jar=spark.jar",
        ),
    ):
        assert read_beam_options(f"{cluster} {jar} {environment}", SHARED).is_remote
        with pytest.raises(ParameterError, match="needs a job server"):
            read_beam_options(f"{cluster} {environment}", SHARED)


def test_an_option_that_only_the_job_server_may_know_is_passed_on_with_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = COMPLETE["FlinkRunner"] + " --quite_unheard_of=1"
    assert "--quite_unheard_of=1" in read_beam_options(text, SHARED).flags
    assert "only if the job server knows it" in caplog.text
    with pytest.raises(ParameterError, match="did you mean 'parallelism'"):
        read_beam_options(COMPLETE["FlinkRunner"] + " --paralelism=2", SHARED)


@pytest.mark.parametrize("name", ["number_of_execution_retries", "execution_retry_delay"])
def test_retries_that_flink_drops_are_a_warning_with_the_setting_of_the_cluster(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    read_beam_options(f"{COMPLETE['FlinkRunner']} --{name}=3", SHARED)
    assert f"{name} does nothing" in caplog.text
    assert "restart-strategy.type" in caplog.text
