"""Flink, Spark and Beam's job servers on this machine, in namespaces of their own.

The network namespace has loopback alone, so nothing listens or reaches outside of it, and the
process namespace ends every process with the one that started it, however that ends.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

FLINK_REST_PORT = 8081
FLINK_JOB_PORT = 8099
SPARK_PORT = 7077
SPARK_JOB_PORT = 8199
SPARK_UI_PORT = 8080
POOL_PORT = 50000

SLOTS = 2
"""Task managers of Flink, with one slot each, and cores of Spark's executor."""

_READY_SECONDS = 120

# As Flink's own configuration has them in `env.java.opts.all`. Its start scripts, which pass
# them on, are not in its Python package.
_EXPORTS = (
    "java.base/sun.net.util",
    "java.rmi/sun.rmi.registry",
    "java.security.jgss/sun.security.krb5",
)
_OPENS = (
    "java.base/java.lang",
    "java.base/java.net",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/sun.nio.ch",
    "java.base/java.lang.reflect",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.util.concurrent.locks",
)
_JAVA_FLAGS = [
    *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
    *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
]

_FLINK_CONFIGURATION = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.memory.process.size: 1024m
rest.address: 127.0.0.1
taskmanager.host: 127.0.0.1
taskmanager.memory.process.size: 1280m
taskmanager.numberOfTaskSlots: 1
heartbeat.interval: 2000
heartbeat.timeout: 10000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 1 s
"""

_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n
"""


def prepare() -> Path:
    """Install and build what the engines need, and return the folder of it.

    Raises:
        RuntimeError: A requirement is missing; the message names it.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    done = subprocess.run(
        [HERE / "prepare.sh", caches / "paring-tests"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"no engine can be started here:\n{done.stdout}{done.stderr}")
    return Path(done.stdout.splitlines()[-1])


@dataclass
class Engines:
    """Namespaces for engines, and what runs in them; a context manager.

    Attributes:
        built: Folder that `prepare` returned.
        folder: Folder of all files that the engines write, and working directory of all
            processes.
    """

    built: Path
    folder: Path = field(init=False)

    def __enter__(self) -> "Engines":
        self._removed = tempfile.TemporaryDirectory(prefix="paring-engines-")
        self.folder = Path(self._removed.name).resolve()
        self._processes: list[subprocess.Popen[bytes]] = []
        flags = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # The first process, which reaps orphans. It ends when this one does.
        first = "ip link set lo up && echo ready && read -r _"
        self._keeper = subprocess.Popen(
            ["unshare", *flags, "--", "bash", "-c", first],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._keeper.stdout is None or self._keeper.stdout.readline() != b"ready\n":
            raise RuntimeError("the namespaces could not be made; see standard error")
        self._first = psutil.Process(self._keeper.pid).children()[0].pid
        return self

    def __exit__(self, *_: object) -> None:
        # Closes its standard input, at whose end it ends, and with it all others.
        self._keeper.communicate()
        for process in self._processes:
            process.wait()
        self._removed.cleanup()

    def start(
        self,
        name: str,
        command: list[str | Path],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the namespaces, with all that it prints in NAME.log."""
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [
                    # Which is ignored where this runs in the background of a shell script.
                    "env",
                    "--default-signal=INT",
                    "nsenter",
                    f"--target={self._first}",
                    "--net",
                    "--pid",
                    "--mount",
                    f"--wd={folder or self.folder}",
                    "--",
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.surroundings(), **(environment or {})},
            )
        self._processes.append(process)
        return process

    def surroundings(self) -> dict[str, str]:
        """Return the environment of every process: Paring's sources, and metrics in `folder`."""
        sources = [ROOT / "components", ROOT / "pipelines", ROOT, self.folder]
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "TMPDIR": str(self.folder),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def log(self, name: str) -> Path:
        """Return the file of what a command prints."""
        return self.folder / f"{name}.log"

    def wait_for_port(self, port: int, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait until a server listens.

        Raises:
            RuntimeError: The process ends before, or takes too long.
        """
        address, listening = f":{port:04X}", "0A"
        tables = [Path(f"/proc/{self._first}/net/{table}") for table in ("tcp", "tcp6")]

        def is_open() -> bool:
            if process.poll() is not None:
                text = self.log(name).read_text()[-3000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{text}")
            rows = [row.split() for table in tables for row in table.read_text().splitlines()]
            return any(row[1].endswith(address) and row[3] == listening for row in rows)

        wait_until(is_open, f"{name} listens on {port}", _READY_SECONDS)

    def fetch(self, url: str) -> Any:
        """Return the JSON at a URL of the network namespace."""
        script = (
            "import sys, urllib.request as r; "
            "sys.stdout.write(r.urlopen(sys.argv[1]).read().decode())"
        )
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._first}",
                "--net",
                "--",
                sys.executable,
                "-c",
                script,
                url,
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def processes(self) -> list[psutil.Process]:
        """Return all processes in the namespaces, with their ids outside."""
        namespace = Path(f"/proc/{self._first}/ns/pid").readlink()
        result = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process.pid}/ns/pid").readlink() == namespace:
                    result.append(process)
        return result


def inner(process: subprocess.Popen[bytes]) -> psutil.Process:
    """Return the process that `Engines.start` started, whose parent is nsenter."""
    children: list[psutil.Process] = []

    def is_there() -> bool:
        children[:] = psutil.Process(process.pid).children()
        return bool(children)

    wait_until(is_there, "nsenter has started its command", 10)
    return children[0]


def wait_until(is_so: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition.

    Raises:
        RuntimeError: It does not hold in time.
    """
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


@dataclass
class Flink:
    """Session cluster with a task manager for each slot, and Beam's job server for it."""

    engines: Engines
    _workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    name = "FlinkRunner"
    job_port = FLINK_JOB_PORT

    def start(self) -> None:
        """Start the cluster and the job server, and wait until all are ready."""
        folder = self.engines.folder / "flink"
        folder.mkdir()
        (folder / "config.yaml").write_text(_FLINK_CONFIGURATION)
        (folder / "log4j.properties").write_text(_LOG4J)
        self._folder = folder
        manager = self.engines.start(
            "flink-jobmanager",
            [
                *self._java(),
                "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
                f"--configDir={folder}",
            ],
        )
        self.engines.wait_for_port(FLINK_REST_PORT, manager, "flink-jobmanager")
        for _ in range(SLOTS):
            self.start_worker()
        name = "flink-job-server"
        server = self.engines.start(
            name,
            [
                "java",
                *_JAVA_FLAGS,
                f"-Djava.io.tmpdir={folder}",
                "-jar",
                self.engines.built / "flink-job-server.jar",
                f"--flink-master=127.0.0.1:{FLINK_REST_PORT}",
                f"--job-port={self.job_port}",
                "--artifact-port=0",
                "--expansion-port=0",
                f"--artifacts-dir={folder / 'artifacts'}",
            ],
        )
        self.engines.wait_for_port(self.job_port, server, name)

    def start_worker(self) -> None:
        """Start a task manager and wait until the cluster has its slot."""
        name = f"flink-taskmanager-{len(self._workers)}"
        self._workers.append(self.engines.start(name, self._worker_command()))
        slots = len(self._workers)
        wait_until(lambda: self._fetch("overview")["slots-total"] >= slots, "slots are there", 60)

    def kill_worker(self) -> None:
        """Kill the task managers, and start others as a cluster's own supervisor would."""
        for worker in self._workers:
            inner(worker).kill()
            worker.wait()
        self._workers.clear()
        for _ in range(SLOTS):
            self.start_worker()

    def is_busy(self) -> bool:
        """Return True if a job has not ended."""
        states = {job["state"] for job in self._fetch("jobs/overview")["jobs"]}
        return not states <= {"FINISHED", "FAILED", "CANCELED"}

    def jobs(self) -> int:
        """Return the number of jobs that the cluster has had."""
        return len(self._fetch("jobs/overview")["jobs"])

    def _fetch(self, path: str) -> Any:
        return self.engines.fetch(f"http://127.0.0.1:{FLINK_REST_PORT}/{path}")

    def _java(self, *flags: str) -> list[str | Path]:
        libraries = self.engines.built / "python" / "pyflink" / "lib"
        return [
            "java",
            *_JAVA_FLAGS,
            *flags,
            f"-Djava.io.tmpdir={self._folder}",
            f"-Dlog4j.configurationFile={self._folder / 'log4j.properties'}",
            "-cp",
            f"{libraries}/*",
        ]

    def _worker_command(self) -> list[str | Path]:
        """Return a task manager's command, with the memory that Flink itself computes."""
        python = self.engines.built / "python" / "pyflink"
        prefix = "BASH_JAVA_UTILS_EXEC_RESULT:"
        printed = subprocess.run(
            [
                "java",
                "-cp",
                f"{python}/bin/bash-java-utils.jar:{python}/lib/*",
                "org.apache.flink.runtime.util.bash.BashJavaUtils",
                "GET_TM_RESOURCE_PARAMS",
                "--configDir",
                self._folder,
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        results = [line for line in printed.splitlines() if line.startswith(prefix)]
        flags, settings = (shlex.split(line.removeprefix(prefix)) for line in results)
        return [
            *self._java(*flags),
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            f"--configDir={self._folder}",
            *settings,
        ]


@dataclass
class Spark:
    """Master and worker, and Beam's job server, which is the driver of its jobs."""

    engines: Engines

    name = "SparkRunner"
    job_port = SPARK_JOB_PORT

    def start(self) -> None:
        """Start the cluster and the job server, and wait until all are ready."""
        home = self.engines.built / "python" / "pyspark"
        folder = self.engines.folder / "spark"
        folder.mkdir()
        surroundings = {
            "SPARK_HOME": str(home),
            "SPARK_LOCAL_DIRS": str(folder),
            # As Spark's start scripts set it.
            "SPARK_SCALA_VERSION": "2.12",
        }
        java: list[str | Path] = ["java", *_JAVA_FLAGS, "-Xmx512m", "-cp", f"{home}/jars/*"]
        master = self.engines.start(
            "spark-master",
            [
                *java,
                "org.apache.spark.deploy.master.Master",
                # Spark's servers take no "=".
                *("--host", "127.0.0.1"),
                *("--port", str(SPARK_PORT)),
                *("--webui-port", str(SPARK_UI_PORT)),
            ],
        )
        self.engines.wait_for_port(SPARK_PORT, master, "spark-master")
        self.engines.start(
            "spark-worker",
            [
                *java,
                "org.apache.spark.deploy.worker.Worker",
                *("--host", "127.0.0.1"),
                *("--cores", str(SLOTS)),
                *("--memory", "1g"),
                *("--work-dir", str(folder)),
                f"spark://127.0.0.1:{SPARK_PORT}",
            ],
            # Where its executors find their jars.
            surroundings,
        )
        name = "spark-job-server"
        server = self.engines.start(
            name,
            [
                home / "bin" / "spark-submit",
                f"--master=spark://127.0.0.1:{SPARK_PORT}",
                "--driver-memory=1g",
                "--executor-memory=1g",
                f"--driver-java-options={' '.join(_JAVA_FLAGS)} -Djava.io.tmpdir={folder}",
                "--conf=spark.driver.host=127.0.0.1",
                "--class=org.apache.beam.runners.spark.SparkJobServerDriver",
                self.engines.built / "spark-job-server.jar",
                f"--spark-master-url=spark://127.0.0.1:{SPARK_PORT}",
                f"--job-port={self.job_port}",
                "--artifact-port=0",
                "--expansion-port=0",
                f"--artifacts-dir={folder / 'artifacts'}",
            ],
            surroundings,
        )
        self.engines.wait_for_port(self.job_port, server, name)

    def is_busy(self) -> bool:
        """Return True if a job has not ended."""
        return bool(self.engines.fetch(f"http://127.0.0.1:{SPARK_UI_PORT}/json/")["activeapps"])

    def kill_worker(self) -> None:
        """Kill an executor in the middle of its job; the worker starts another."""
        executors = [
            process
            for process in self.engines.processes()
            if any("CoarseGrainedExecutorBackend" in word for word in process.cmdline())
        ]
        executors[0].kill()


def processes(engines: Engines) -> str:
    """Return the options of workers that each of an engine's own processes starts."""
    config = {
        "command": str(engines.built / "boot"),
        "env": {
            **engines.surroundings(),
            # Otherwise boot makes an environment without Paring.
            "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
        },
    }
    return f"--environment_type=PROCESS --environment_config='{json.dumps(config)}'"


def worker_pool(engines: Engines) -> str:
    """Start a pool that starts workers as processes, and return its address.

    It serves a single process of an engine: those of two have the same ids.
    """
    module, name = "apache_beam.runners.worker.worker_pool_main", "worker-pool"
    process = engines.start(name, [sys.executable, "-m", module, f"--service_port={POOL_PORT}"])
    engines.wait_for_port(POOL_PORT, process, name)
    return f"127.0.0.1:{POOL_PORT}"
