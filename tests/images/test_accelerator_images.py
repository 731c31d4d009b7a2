"""The images for TPUs and GPUs, started where there is neither: `make test-images`."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import graphs
from tests.images.conftest import SOURCE, Built, Podman, alone, make_image

from paring.errors import MissingDependencyError

pytestmark = [pytest.mark.images, pytest.mark.slow, pytest.mark.timeout(3600)]

# Of a container that is to fail at once: what hangs is ended, and the time is no measurement.
_SECONDS = 20

_TPU = "there is no TPU that this process can use"
_GPU = "there is no NVIDIA GPU that this process can use"

# For each image: the step, what is requested by the environment, and the error.
_WITHOUT_DEVICE = {
    "tpu": [
        ("prune --model=/in/model.keras --examples=/in/digits.npz --strategy=tpu", "", _TPU),
        ("prune --model=/in/model.keras --examples=/in/digits.npz", "tpu-v5e", _TPU),
        ("benchmark --source=/in/model.keras --examples=/in/digits.npz", "tpu-v5e", _TPU),
    ],
    "tensorrt": [
        ("build_tensorrt --model=/in/model.onnx --product=rtx", "", _GPU),
        ("benchmark --source=/in/model.keras --examples=/in/digits.npz", "nvidia-l4", _GPU),
    ],
    "gpu": [
        ("prune --model=/in/model.keras --examples=/in/digits.npz", "nvidia-l4", _GPU),
        ("convert_tftrt --model=/in/model.keras", "", _GPU),
    ],
}
_OUTPUTS = {
    "prune": "pruned",
    "benchmark": "metrics",
    "build_tensorrt": "engine",
    "convert_tftrt": "converted",
}


@pytest.fixture(scope="module", params=_WITHOUT_DEVICE)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def image(target: str, podman: Podman) -> Iterator[Built]:
    """One image at a time, since three take more disk than a machine for tests has."""
    with alone():
        made = make_image(podman, f"tested-{os.getpid()}", source=SOURCE, target=target)
    yield made
    with alone():
        podman("rmi", made.name)
        podman("image", "prune", "--force")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, digits_keras: Path, digits_npz: Path) -> Path:
    """Folder with a model and examples, which every user may read."""
    folder = tmp_path_factory.mktemp("given") / "in"
    before = os.umask(0)
    try:
        folder.mkdir()
        shutil.copyfile(digits_keras, folder / "model.keras")
        shutil.copyfile(digits_npz, folder / "digits.npz")
        graphs.product(folder / "model.onnx", graphs.FLOAT)
    finally:
        os.umask(before)
    return folder


def _run(
    podman: Podman, image: Built, given: Path, arguments: str, *options: str, seconds: float
) -> Any:
    volume = f"--volume={given}:/in:ro"
    command = [*podman.run_command(image.name, volume, *options), *arguments.split()]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=podman.environment,
        timeout=seconds,
    )


def test_it_starts_and_tells_its_size(
    podman: Podman, image: Built, given: Path, target: str, record_property: Any
) -> None:
    done = _run(podman, image, given, "--version", seconds=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("paring, version ")
    (config,) = json.loads(podman("image", "inspect", image.name).stdout)
    record_property("size", f"{target} {config['Size']}")


def test_without_its_device_a_step_that_requests_it_ends_at_once(
    podman: Podman, image: Built, given: Path, target: str
) -> None:
    # The first start reads the image's files from the disk.
    _run(podman, image, given, "step prune --help", seconds=300)
    for arguments, requested, words in _WITHOUT_DEVICE[target]:
        name = arguments.split()[0]
        step = f"step {arguments} --{_OUTPUTS[name]}=/tmp/out"
        options = [f"--env=PARING_ACCELERATOR={requested}"] if requested else []
        done = _run(podman, image, given, step, *options, seconds=_SECONDS)
        assert done.returncode == MissingDependencyError.exit_code, (arguments, done.stderr)
        assert words in done.stderr


def test_without_its_device_a_step_that_requests_none_works(
    podman: Podman, image: Built, given: Path
) -> None:
    step = "step import_model --original=/in/model.keras --model=/tmp/out"
    done = _run(podman, image, given, step, seconds=600)
    assert done.returncode == 0, done.stderr
