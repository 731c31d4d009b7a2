"""Apache Beam's options as one text, read and checked by Beam's parser.

Options that a runner requires are checked here, before anything is uploaded or started.
"""

import contextlib
import difflib
import io
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paring.errors import ParameterError, nearest
from paring.storage import is_remote
from paring.system.documents import parse_json

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_log = logging.getLogger(__name__)

IN_PROCESS = "FnApiRunner"
"""Beam's runner within this process, which may start others on this machine."""

_ON_THIS_MACHINE = ("--direct_running_mode=in_memory", "--direct_num_workers=1")

_LOCAL = ("DirectRunner", "SwitchingDirectRunner")
"""Runners that Beam runs on this machine, by Prism where it is; it would be downloaded."""

_WITH_JOB_SERVER = ("FlinkRunner", "PortableRunner", "SparkRunner")
"""The runners whose job server may have options of its own, which only it knows."""

_STREAMING_ONLY = ("execution_retry_delay", "number_of_execution_retries")
"""Options of Flink's job server that it reads for streaming pipelines, and drops for ours."""

_UNFIT = {
    **dict.fromkeys(
        (
            "dry_run",
            "no_wait_until_finish",
            "output_executable_path",
            "template_location",
            "wait_until_finish_duration",
        ),
        "with it there is no result",
    ),
    **dict.fromkeys(
        (
            "azure_connection_string",
            "s3_access_key_id",
            "s3_secret_access_key",
            "s3_session_token",
        ),
        "credentials come from the environment alone, since these options are recorded",
    ),
}
"""Options that can't be given, and why."""

_PROCESS = '{"command": "FILE"}'
"""Environment of the type PROCESS."""

_EMBEDDED = "embed"
"""In place of a job server's address: Beam's own job server, in this process."""

_ELSEWHERE = (
    "environment_config",
    "environment_options",
    "environment_type",
    "parallelism",
    "sdk_container_image",
    "sdk_worker_parallelism",
)
"""Options of workers on other machines."""

_ENVIRONMENTS = ("DOCKER", "EXTERNAL", "LOOPBACK", "PROCESS")


@dataclass(frozen=True)
class BeamOptions:
    """Options and runner of a Beam pipeline.

    Attributes:
        flags: As `PipelineOptions` takes them.
        runner: Its name.
        has_processes: True if the workers are other processes on this machine.
    """

    flags: tuple[str, ...]
    runner: str
    has_processes: bool = False

    @property
    def is_remote(self) -> bool:
        """True if the workers may be on other machines, without access to local paths."""
        return self.runner != IN_PROCESS

    def check_tpu(self) -> None:
        """Refuse what can't be where the workers are on a host with a TPU.

        Raises:
            ParameterError: They are processes, of which one alone can hold a TPU.
        """
        if self.has_processes:
            raise _refusal(
                "workers can't be processes of a host with a TPU, which one process holds",
                " ".join(self.flags),
                "leave out direct_running_mode and direct_num_workers",
            )


def read_beam_options(text: str, shared_dir: str) -> BeamOptions:
    """Read the options, and check what can be checked without a cluster.

    Args:
        text: Options as on a command line, split as a shell does; "" is one worker in
            this process.
        shared_dir: A URI or path that all workers reach; "" for none.

    Raises:
        ParameterError: An option is unknown or can't be taken, the runner needs another
            one, or there is a folder to share and no need of it, or a need and none.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _refusal("can't be split into words", error, "close the quotes") from error
    _check_words(words)
    if not words:
        words = list(_ON_THIS_MACHINE)
    with _root_logger_as_it_is():
        options, notes = _read(words, shared_dir)
    for note in notes:
        _log.warning("beam_options: %s", note)
    return options


def _read(words: Sequence[str], shared_dir: str) -> tuple[BeamOptions, list[str]]:
    """Return the checked options, and what the user should know of them."""
    options, unknown = _parsed(words)
    named, runner = _runner_of(options)
    notes = _check_unknown(unknown, runner)
    if named in _LOCAL:
        notes.append(f"{named} is {IN_PROCESS}, in this process; Beam would download Prism for it")
    _check_fit(options)
    flags = [*words, f"--runner={runner}"]
    has_processes = False
    if runner == IN_PROCESS:
        has_processes = _check_local(options)
        if shared_dir:
            raise ParameterError(
                "shared_dir: the workers are on this machine, so nothing is shared",
                received=shared_dir,
                remedy="leave it out, or name a runner with workers elsewhere in beam_options",
            )
    else:
        _REQUIREMENTS[runner](options)
        if not shared_dir:
            raise ParameterError(
                f"shared_dir: the workers of {runner} don't see this machine's files",
                remedy="give a folder that all of them reach, such as s3://BUCKET/FOLDER",
            )
        _check_place(shared_dir)
    _check_by_beam(flags, runner)
    return BeamOptions(tuple(flags), runner, has_processes), notes


def _check_place(shared_dir: str) -> None:
    try:
        is_remote(shared_dir)
    except ParameterError as error:
        raise ParameterError(
            f"shared_dir: {error.what}", received=error.received, remedy=error.remedy
        ) from error


def _check_words(words: Sequence[str]) -> None:
    """Refuse what Beam's parser would drop without a word: values of no option."""
    takes_value = False
    for word in words:
        # Beam drops one with a single dash, too.
        if not word.startswith("--") and not takes_value:
            raise _refusal("this belongs to no option", word, f"write --{word.lstrip('-')}")
        takes_value = word.startswith("--") and "=" not in word


def _parsed(words: Sequence[str]) -> tuple["PipelineOptions", dict[str, list[str]]]:
    """Return the options in Beam's own form, and each that Beam has not, with those like it."""
    from apache_beam.options.pipeline_options import PipelineOptions

    result = io.StringIO()
    try:
        with contextlib.redirect_stderr(result), _without_warnings():
            options = PipelineOptions(list(words))
            known = options.get_all_options()
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        # Beam parses with argparse, which ends the process.
        said = result.getvalue().strip().rpartition("error: ")[2]
        raise _refusal("Beam can't take this", said, "see Beam's own options") from error
    return options, {
        name: difflib.get_close_matches(name, known, n=1)
        for name in sorted(given.keys() - known.keys())
    }


def _check_unknown(unknown: Mapping[str, Sequence[str]], runner: str) -> list[str]:
    """Return a note for each option that the job server may know; refuse the others."""
    notes = []
    for name, close in unknown.items():
        if runner in _WITH_JOB_SERVER and name in _STREAMING_ONLY:
            notes.append(
                f"{name} does nothing: Flink's job server drops it for pipelines that are not"
                " streaming; set restart-strategy.type in the configuration of the Flink cluster"
            )
            continue
        if runner in _WITH_JOB_SERVER and not close:
            notes.append(f"{name} does something only if the job server knows it")
            continue
        remedy = f"did you mean {close[0]!r}?" if close else "see Beam's own options"
        raise _refusal("there is no such option", name, remedy)
    return notes


def _check_fit(options: "PipelineOptions") -> None:
    given = options.get_all_options(drop_default=True)
    for name, reason in _UNFIT.items():
        if name in given:
            # Its value may be a secret.
            raise _refusal(reason, name, "leave it out")


def _runner_of(options: "PipelineOptions") -> tuple[str, str]:
    """Return the runner's name as it was given, and that of the runner itself."""
    from apache_beam.options.pipeline_options import StandardOptions

    name: str = options.view_as(StandardOptions).runner or IN_PROCESS
    known = (IN_PROCESS, *_REQUIREMENTS)
    if name in _LOCAL:
        return name, IN_PROCESS
    if name == "PrismRunner":
        remedy = f"give --runner={IN_PROCESS}, which runs here, with as many processes as you like"
        raise _refusal("PrismRunner is not used: Beam would download it", name, remedy)
    if name not in known:
        raise _refusal("there is no such runner", name, nearest(name, known))
    return name, name


def _check_local(options: "PipelineOptions") -> bool:
    """Check what the runner in this process takes; return whether its workers are processes."""
    from apache_beam.options.pipeline_options import DirectOptions, PortableOptions

    direct = options.view_as(DirectOptions)
    if direct.direct_num_workers < 0:
        raise _refusal(
            "direct_num_workers can't be negative",
            direct.direct_num_workers,
            "give 0 for one worker a core",
        )
    if direct.direct_running_mode == "in_memory" and direct.direct_num_workers != 1:
        raise _refusal(
            "in_memory is one worker, whatever direct_num_workers says",
            f"direct_num_workers {direct.direct_num_workers}",
            "add --direct_running_mode=multi_processing",
        )
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        raise _refusal(f"{IN_PROCESS} takes no job server", endpoint, "add --runner=PortableRunner")
    given = options.get_all_options(drop_default=True)
    for name in _ELSEWHERE:
        if name in given:
            raise _refusal(
                f"{name} does nothing with {IN_PROCESS}, whose workers are on this machine",
                given[name],
                "leave it out, or name a runner with workers elsewhere",
            )
    return bool(direct.direct_running_mode == "multi_processing")


def _need_job_server(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import PortableOptions

    if not options.view_as(PortableOptions).job_endpoint:
        raise _refusal(
            "PortableRunner needs a job server", "no job_endpoint", "add --job_endpoint=HOST:PORT"
        )
    _check_portable(options)


def _need_flink(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

    flink = options.view_as(FlinkRunnerOptions)
    is_cluster = flink.flink_master not in ("[auto]", "[local]")
    if not options.view_as(PortableOptions).job_endpoint and not (
        is_cluster and flink.flink_job_server_jar
    ):
        # Without the jar Beam downloads one.
        raise _refusal(
            "FlinkRunner needs a job server",
            f"flink_master {flink.flink_master}, no job_endpoint",
            "add --job_endpoint=HOST:PORT, or --flink_master=HOST:PORT with"
            " --flink_job_server_jar=FILE and Java on this machine",
        )
    if flink.parallelism == 0 or flink.parallelism < -1:
        raise _refusal(
            "parallelism: must be 1 or more, or -1 for the cluster's own",
            flink.parallelism,
            "give the number of slots",
        )
    _check_portable(options)


def _need_spark(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import PortableOptions, SparkRunnerOptions

    spark = options.view_as(SparkRunnerOptions)
    is_cluster = spark.spark_rest_url or not spark.spark_master_url.startswith("local")
    if not options.view_as(PortableOptions).job_endpoint and not (
        is_cluster and spark.spark_job_server_jar
    ):
        raise _refusal(
            "SparkRunner needs a job server",
            f"spark_master_url {spark.spark_master_url}, no job_endpoint",
            "add --job_endpoint=HOST:PORT, or --spark_master_url=spark://HOST:PORT with"
            " --spark_job_server_jar=FILE and Java on this machine",
        )
    _check_portable(options)


def _need_dataflow(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions, WorkerOptions

    cloud = options.view_as(GoogleCloudOptions)
    given = {name: getattr(cloud, name) for name in ("project", "region", "temp_location")}
    # Beam would look the region up with gcloud's own settings, which pods don't have.
    given["sdk_container_image"] = options.view_as(WorkerOptions).sdk_container_image
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise _refusal(
            "DataflowRunner needs more options",
            f"no {', '.join(missing)}",
            f"add --{missing[0]}=VALUE",
        )


_REQUIREMENTS: dict[str, Callable[["PipelineOptions"], None]] = {
    "PortableRunner": _need_job_server,
    "FlinkRunner": _need_flink,
    "SparkRunner": _need_spark,
    "DataflowRunner": _need_dataflow,
}
"""The runners with workers elsewhere, and what each asks for."""


def _check_portable(options: "PipelineOptions") -> None:
    """Check what all runners with a job server take: its address, and the workers."""
    from apache_beam.options.pipeline_options import PortableOptions

    portable = options.view_as(PortableOptions)
    if portable.job_endpoint and portable.job_endpoint != _EMBEDDED:
        _check_address("job_endpoint", portable.job_endpoint)
    # Beam takes any text.
    if not str(portable.sdk_worker_parallelism).isdecimal():
        raise _refusal(
            "sdk_worker_parallelism: must be 0 or more",
            portable.sdk_worker_parallelism,
            "give the number of processes of each of the engine's workers; 0 for one a core",
        )
    _need_environment(options)


def _check_address(name: str, text: str) -> None:
    """Refuse what no connection is made to, and which Beam would wait for in vain."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise _refusal(f"{name}: must be HOST:PORT", text, f"write --{name}=HOST:PORT")


def _need_environment(options: "PipelineOptions") -> None:
    """Refuse workers in Beam's own image, which has no Paring."""
    from apache_beam.options.pipeline_options import PortableOptions, WorkerOptions

    portable = options.view_as(PortableOptions)
    # Beam takes them in capitals alone.
    kind = portable.environment_type or "DOCKER"
    if kind not in _ENVIRONMENTS:
        remedy = nearest(kind.upper(), _ENVIRONMENTS)
        raise _refusal("environment_type: there is no such one", kind, remedy)
    named = (
        portable.environment_config
        or portable.environment_options
        or options.view_as(WorkerOptions).sdk_container_image
    )
    if kind != "LOOPBACK" and not named:
        # As a shell takes it.
        wanted = {"DOCKER": "IMAGE", "EXTERNAL": "HOST:PORT", "PROCESS": f"'{_PROCESS}'"}
        raise _refusal(
            "the workers need an environment that has Paring",
            f"environment_type {kind}, no environment_config",
            f"add --environment_type={kind} --environment_config={wanted[kind]}",
        )
    config = portable.environment_config
    if kind == "PROCESS" and config:
        _check_process(config)
    # Beam takes JSON of an address with parameters as well.
    if kind == "EXTERNAL" and config and not config.lstrip().startswith("{"):
        _check_address("environment_config", config)


def _check_process(text: str) -> None:
    """Refuse an environment of PROCESS that Beam or the engine would stumble over."""
    try:
        config = parse_json(text)
        texts = [config["command"], *(config.get("env") or {}).values()]
        if config["command"] and all(isinstance(item, str) for item in texts):
            return
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise _refusal(
        "environment_config: must be a JSON object with the command, a text, and texts in env",
        text,
        f"write --environment_config='{_PROCESS}', with the quotes",
    )


def _check_by_beam(flags: Sequence[str], runner: str) -> None:
    """Have Beam itself check the options, as it does when a pipeline starts."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    options = PipelineOptions(list(flags))
    with _without_warnings():
        validator: Any = PipelineOptionsValidator(  # type: ignore[no-untyped-call]
            options, create_runner(runner)
        )
        if runner == "DataflowRunner":
            # As a whole it would ask Google Cloud Storage about the buckets.
            cloud = options.view_as(GoogleCloudOptions)
            errors = validator.validate_cloud_options(cloud)
            errors += validator.validate_gcs_path(cloud, "temp_location")
        else:
            errors = validator.validate()
    if errors:
        raise _refusal("Beam can't take these", "; ".join(errors), "see Beam's own options")


def _refusal(text: str, received: object, remedy: str) -> ParameterError:
    return ParameterError(f"beam_options: {text}", received=received, remedy=remedy)


@contextlib.contextmanager
def _root_logger_as_it_is() -> Iterator[None]:
    """Keep Beam from adding a handler to a root logger without one.

    Its options do so wherever they are made. The handler would write into what standard error
    is while they are parsed, and would take all later warnings there.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Beam's log back, since what it tells of is raised here."""
    log = logging.getLogger("apache_beam")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
