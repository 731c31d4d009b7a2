"""The cpu image: what is in it, and how it runs as an operator would run it."""

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.kfp_runner import PackageRun, command_paring, run_package
from tests.helpers.beam_servers import free_port, is_open, job_server, started, wait_for
from tests.images.conftest import BASE, ROOT, SOURCE, Built, Podman, alone, make_image

from paring.artifacts import read_record
from paring.errors import MissingDependencyError
from paring.execution import Call, execute
from paring.steps.evaluate import evaluate
from paring_pipelines.cli.main import main
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.session import PublishedRun, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

# Run inside: what the process is, and what it may do.
_INSIDE = """
import json, os, pathlib, shutil, socket, sys

def writable(folder):
    try:
        pathlib.Path(folder, "probe").write_text("x")
    except OSError as error:
        return error.strerror
    return "written"

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
packages = pathlib.Path(sys.prefix, "lib/python3.11/site-packages")
json.dump({
    "user": [os.getuid(), os.getgid()],
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "writable": {folder: writable(folder) for folder in ("/", "/opt/paring", "/usr", "/tmp")},
    "network": [name for _, name in socket.if_nameindex()],
    "tools": [name for name in ("uv", "gcc", "cc", "make", "git") if shutil.which(name)],
    "installers": sorted(one.name for one in packages.glob("pip*")),
    "uncompiled": [
        str(one) for name in ("paring", "paring_pipelines", "tensorflow/python/keras", "tf_keras")
        for one in (packages / name).rglob("*.py")
        if not list((one.parent / "__pycache__").glob(f"{one.stem}.cpython-311.pyc"))
    ],
    "left": sorted(os.listdir("/opt")),
}, sys.stdout)
"""


def _config(podman: Podman, image: Built) -> dict[str, Any]:
    result: list[dict[str, Any]] = json.loads(podman("image", "inspect", image.name).stdout)
    return result[0]


def _run(podman: Podman, image: Built, *arguments: str, options: tuple[str, ...] = ()) -> Any:
    command = [*podman.run_command(image.name, *options), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=podman.environment
    )


def test_make_images_prints_the_name_and_the_digest(podman: Podman, cpu_image: Built) -> None:
    assert cpu_image.name == f"paring-cpu:tested-{os.getpid()}"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", cpu_image.digest)
    assert _config(podman, cpu_image)["Digest"] == cpu_image.digest


def test_it_takes_at_most_what_its_documentation_says(podman: Podman, cpu_image: Built) -> None:
    assert _config(podman, cpu_image)["Size"] < 2.4e9


def test_the_labels_tell_version_commit_and_base(podman: Podman, cpu_image: Built) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    labels = _config(podman, cpu_image)["Labels"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.revision"].removesuffix("-modified") == commit
    assert {name: labels[f"{prefix}.{name}"] for name in ("version", "licenses", "source")} == {
        "version": cpu_image.name.partition(":")[2],
        "licenses": "Apache-2.0",
        "source": SOURCE,
    }
    assert labels[f"{prefix}.base.name"] == BASE


def test_the_labels_of_an_unchanged_image_built_again_are_the_new_ones(
    podman: Podman, cpu_image: Built
) -> None:
    with alone():
        again = make_image(podman, f"{cpu_image.name.partition(':')[2]}-again", source="")
        labels = _config(podman, again)["Labels"]
        podman("rmi", again.name)
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == again.name.partition(":")[2]
    assert labels[f"{prefix}.source"] == ""


_CODE = """
import hashlib, json, pathlib, paring, paring_pipelines
found = {}
for package in (paring, paring_pipelines):
    folder = pathlib.Path(package.__file__).parent
    for file in folder.rglob("*.py"):
        name = str(file.relative_to(folder.parent))
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
print(json.dumps(found))
"""


def _code_in(podman: Podman, image: Built) -> dict[str, str]:
    """The digest of each of our modules that an image holds."""
    done = _run(podman, image, "-c", _CODE, options=("--entrypoint=python",))
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


def _code_of(checkout: Path) -> dict[str, str]:
    return {
        str(file.relative_to(checkout / root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for root, package in (("components", "paring"), ("pipelines", "paring_pipelines"))
        for file in (checkout / root / package).rglob("*.py")
    }


def test_an_image_holds_the_code_of_its_checkout(podman: Podman, cpu_image: Built) -> None:
    assert _code_in(podman, cpu_image) == _code_of(ROOT)


def test_an_image_that_is_built_again_holds_the_code_as_it_is_then(
    podman: Podman, cpu_image: Built, tmp_path: Path
) -> None:
    """The layers of the first build are at hand, one module of it has changed."""
    checkout = tmp_path / "checkout"
    for name in ("components", "pipelines", "requirements"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=unwanted)
    for name in (".dockerignore", "LICENSE", "Makefile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    with (checkout / "components/paring/errors.py").open("a") as module:
        module.write("# Changed.\n")
    with alone():
        version = f"{cpu_image.name.partition(':')[2]}-changed"
        again = make_image(podman, version, source=SOURCE, checkout=checkout)
        result = _code_in(podman, again)
        podman("rmi", again.name)
    assert result == _code_of(checkout) != _code_of(ROOT)


def test_the_entry_point_is_the_command_without_a_shell(podman: Podman, cpu_image: Built) -> None:
    config = _config(podman, cpu_image)["Config"]
    assert config["Entrypoint"] == ["paring"]
    assert config["User"] == "65532:65532"


def test_it_runs_hardened_and_tells_its_version(podman: Podman, cpu_image: Built) -> None:
    done = _run(podman, cpu_image, "--version")
    version = importlib.metadata.version("paring")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"paring, version {version}\n"


def test_inside_nothing_can_be_written_or_reached_but_tmp(podman: Podman, cpu_image: Built) -> None:
    done = _run(podman, cpu_image, "-c", _INSIDE, options=("--entrypoint=python",))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["user"] == [65532, 65532]
    assert result["capabilities"] == 0
    assert result["writable"] == {
        "/": "Read-only file system",
        "/opt/paring": "Read-only file system",
        "/usr": "Read-only file system",
        "/tmp": "written",
    }
    assert result["network"] == ["lo"]
    assert (result["tools"], result["installers"]) == ([], [])
    assert result["uncompiled"] == []
    # What was mounted while it was built left no trace.
    assert result["left"] == ["paring"]


def test_a_libraries_layer_holds_nothing_of_the_build_s_network(
    podman: Podman, cpu_image: Built
) -> None:
    listing = "import os; print([os.path.exists(f) for f in ('/etc/pip.conf', '/etc/uv')])"
    done = _run(podman, cpu_image, "-c", listing, options=("--entrypoint=python",))
    assert done.stdout == "[False, False]\n"
    environment = _config(podman, cpu_image)["Config"]["Env"]
    assert [item for item in environment if "CERT" in item or "INDEX" in item] == []


def test_the_list_of_contents_is_that_of_the_lock(podman: Podman, cpu_image: Built) -> None:
    lock = (ROOT / "requirements/images/cpu.txt").read_text()
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ ]+)", lock, re.MULTILINE))
    sbom = json.loads(cpu_image.sbom.read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {
        re.sub(r"[-_.]+", "-", component["name"]).lower(): component["version"]
        for component in sbom["components"]
    }
    assert listed.pop("paring") == importlib.metadata.version("paring")
    assert listed == locked
    assert listed["tensorflow-cpu"] == importlib.metadata.version("tensorflow")
    inside = _run(podman, cpu_image, "/usr/share/paring/sbom.json", options=("--entrypoint=cat",))
    assert inside.stdout == cpu_image.sbom.read_text()


# What `test_each_step_in_its_container_gives_what_the_local_run_gives` leaves out: the libraries of
# ONNX and OpenVINO, without their headers, tests and symbol tables.
_OTHER_RUNTIMES = """
set -e
step() { paring step "$@" >/tmp/said 2>&1 || { cat /tmp/said; exit 1; }; }
step export_onnx --model=/in/model --exported=/tmp/onnx --precision=int8 --examples=/in/digits.npz
step convert_openvino --model=/tmp/onnx --converted=/tmp/openvino
step optimize_savedmodel --model=/in/model --examples=/in/digits.npz --optimized=/tmp/optimized
for candidate in onnx openvino optimized; do
  step evaluate --source=/in/model --candidate=/tmp/$candidate --examples=/in/digits.npz \
    --evaluation=/tmp/evaluation-$candidate
done
ls /tmp
"""


def test_the_steps_of_every_runtime_work(
    podman: Podman, cpu_image: Built, shared: Path, digits_model: Path, digits_npz: Path
) -> None:
    copied(digits_model, shared / "model")
    copied(digits_npz, shared / "digits.npz")
    options = ("--entrypoint=sh", f"--volume={shared}:/in:ro")
    done = _run(podman, cpu_image, "-c", _OTHER_RUNTIMES, options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {f"evaluation-{name}" for name in ("onnx", "openvino", "optimized")} < set(
        done.stdout.split()
    )


@pytest.fixture
def pool(
    podman: Podman, cpu_image: Built, bucket: str, tmp_path: Path
) -> Iterator[tuple[str, Path]]:
    """The address of a worker pool in the image, as docs/beam.md has it, and the file of its log.

    On this machine's network, as a sidecar is on its pod's.
    """
    page = (ROOT / "docs/beam.md").read_text()
    (documented,) = re.findall(r"^command: \[(.*)\]$", page, re.MULTILINE)
    entry, *arguments = documented.split(", ")
    port = free_port()
    arguments[-1] = arguments[-1].replace("50000", str(port))
    # As `bucket` set them. A bundle of certificates would be this machine's.
    store = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    name = f"paring-pool-{os.getpid()}"
    options = [f"--name={name}", f"--entrypoint={entry}", *(f"--env={item}" for item in store)]
    command = podman.run_command(cpu_image.name, *options, network="host")
    folder = tmp_path / "pool"
    folder.mkdir()
    with started(folder, [*command, *arguments], environment=podman.environment) as process:
        try:
            wait_for(process, lambda: is_open(port))
            yield f"localhost:{port}", folder / "log"
        finally:
            # The first process of a container takes no signal that it has no handler for.
            podman("kill", name, check=False)


def test_a_pool_of_workers_in_the_image_evaluates_as_this_process_does(
    pool: tuple[str, Path],
    bucket: str,
    tmp_path: Path,
    digits_model: Path,
    digits_npz: Path,
) -> None:
    paths = {"source": digits_model, "examples": digits_npz}
    alone = execute(evaluate, Call(paths, {"evaluation": tmp_path / "alone"}))["evaluation"]
    address, log = pool
    folder = tmp_path / "job-server"
    folder.mkdir()
    with job_server(folder) as server:
        options = f"--runner=PortableRunner --job_endpoint={server}"
        options += f" --environment_type=EXTERNAL --environment_config={address}"
        parameters = {"beam_options": options, "shared_dir": f"s3://{bucket}/shared"}
        call = Call(paths, {"evaluation": tmp_path / "remote"}, parameters)
        remote = execute(evaluate, call)["evaluation"]
    result, expected = ((item.path / "evaluation.json").read_bytes() for item in (remote, alone))
    assert result == expected
    # In the pool, which is in the container.
    assert "Starting worker with command" in log.read_text()


def test_what_an_image_is_not_for_is_an_error_that_says_so(
    podman: Podman, cpu_image: Built
) -> None:
    make = "import numpy; x = numpy.zeros(4); numpy.savez('/tmp/a.npz', x_train=x); "
    main = "from paring_pipelines.cli.main import main; "
    call = "main(['run', '--model', '/tmp', '--examples', '/tmp/a.npz', '--out', '/tmp/out'])"
    done = _run(podman, cpu_image, "-c", make + main + call, options=("--entrypoint=python",))
    assert done.returncode == MissingDependencyError.exit_code, done.stderr
    assert "TFX" in done.stderr
    assert "paring step" in done.stderr


# A pipeline with each step in a container of its own, against the same run locally.

RECIPES = """
[recipes.after-training]
steps = [{ step = "convert_tflite", quantization = "fp16" }]

[recipes.trained]
steps = [
  { step = "prune", sparsity = 0.5, epochs = 1 },
  { step = "convert_tflite", quantization = "int8" },
]
"""

# By size, which differs: by latency the noise of two short runs might decide.
OPTIONS = "--max-accuracy-drop 0.5 --objective size --brief"
SETTINGS = Settings(max_accuracy_drop=0.5, objective="size", brief=True)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that the image's user, who is not this one, may write to."""
    folder = tmp_path / "shared"
    before = os.umask(0)
    try:
        folder.mkdir()
        yield folder
    finally:
        os.umask(before)


def copied(source: Path, target: Path) -> Path:
    """`source` where containers see it, readable for all."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
    else:
        shutil.copyfile(source, target)
    return target


def test_each_step_in_its_container_gives_what_the_local_run_gives(
    tmp_path: Path,
    shared: Path,
    podman: Podman,
    cpu_image: Built,
    digits_model: Path,
    digits_npz: Path,
) -> None:
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(RECIPES)
    package = tmp_path / "package.yaml"
    with pytest.raises(SystemExit) as ended:
        main(
            shlex.split(
                f"compile --image {cpu_image.name} --recipes {recipes} --out {package} {OPTIONS}"
            )
        )
    assert not ended.value.code
    (shared / "sources").mkdir()
    model = copied(digits_model, shared / "sources" / "model")
    examples = copied(digits_npz, shared / "sources" / "digits.npz")

    # Only below this path does a container share anything with what ran before it.
    in_image = podman.run_command(cpu_image.name, f"--volume={shared}:{shared}")
    by_containers = run_package(
        package,
        shared / "root",
        {"model_uri": str(model), "examples_uri": str(examples), "source_digest": "sha256:1"},
        command_paring(*in_image),
    )
    locally = run(
        model, examples, recipes=load_recipes(recipes), settings=SETTINGS, out=tmp_path / "local"
    )

    chosen = json.loads((by_containers.path("select", "selection") / "selection.json").read_text())
    assert chosen["selected"] == locally.selection.selected != "source"
    compare_candidates(chosen, locally)
    _check_where_it_ran(by_containers)


def compare_candidates(chosen: dict[str, Any], locally: PublishedRun) -> None:
    rows = {row["id"]: row for row in chosen["candidates"]}
    others = {row["id"]: row for row in locally.selection.to_json()["candidates"]}
    assert rows.keys() == others.keys() == {"source", "after-training", "trained"}
    for name, row in rows.items():
        for figure in ("outcome", "recipe", "accuracy", "agreement", "size_bytes"):
            assert row[figure] == others[name][figure], (name, figure)


def _check_where_it_ran(made: PackageRun) -> None:
    """As the image's user, with the image's distribution of TensorFlow."""
    for task, outputs in made.artifacts.items():
        for output in outputs:
            path = made.path(task, output)
            record = read_record(path)
            if not task.startswith("importer") and record is not None:
                assert path.stat().st_uid == 65532, task
                assert record["lineage"]["environment"]["tensorflow"] != "absent"
