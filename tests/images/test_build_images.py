"""`make images`: what it refuses, and how the images' locks fit the tested one."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.images.conftest import ROOT

SCRIPT = ROOT / "components" / "build-images.sh"
TARGETS = ("cpu", "gpu", "tensorrt", "tpu")


def _build(path: str = "", **variables: str) -> tuple[int, str]:
    environment = {**os.environ, **variables, "PATH": path or os.environ["PATH"]}
    done = subprocess.run(
        ["/bin/bash", SCRIPT], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.fixture
def no_tools(tmp_path: Path) -> str:
    """A PATH with what the script itself uses, and no container tool."""
    for name in ("dirname", "sed", "git"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    return str(tmp_path)


def test_an_unknown_target_is_refused_by_name() -> None:
    code, said = _build(TARGETS="cpu npu")
    assert code == 1
    assert (
        said == "images: TARGETS: there is no target 'npu'. There are cpu, gpu, tensorrt and tpu.\n"
    )


def test_an_unknown_tool_is_refused_by_name() -> None:
    code, said = _build(IMAGE_TOOL="kaniko")
    assert code == 1
    assert "no tool 'kaniko'" in said


def test_a_named_tool_that_is_not_there_is_named(no_tools: str) -> None:
    code, said = _build(no_tools, IMAGE_TOOL="buildah")
    assert code == 1
    assert said.startswith("images: buildah is not on the PATH.")


def test_without_any_tool_it_says_what_to_install(no_tools: str) -> None:
    code, said = _build(no_tools)
    assert code == 1
    assert "apt install podman" in said


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """The folder of a docker that builds nothing, and of the file `calls`."""
    folder = tmp_path / "tools"
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "images" / "docker.sh", folder / "docker")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy of the files that `make images` reads, so that this checkout is not written to."""
    folder = tmp_path / "checkout"
    (folder / "components").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "components/build-images.sh"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "components" / "Dockerfile", folder / "components")
    for name in ("LICENSE", "README.md", "components/paring", "pipelines", "requirements"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize(
    ("given", "image"),
    [
        ((), "paring-cpu:{version}"),
        (("REGISTRY=registry.example.com/team",), "registry.example.com/team/paring-cpu:{version}"),
        (("VERSION=7",), "paring-cpu:7"),
    ],
)
def test_make_images_tags_by_the_packages_version(
    given: tuple[str, ...], image: str, docker: Path, checkout: Path
) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    environment = {**os.environ, "PATH": f"{docker}:{os.environ['PATH']}"}
    # What make passes on to those that it starts, should this be run by it.
    for name in ("VERSION", "REGISTRY", "BASE", "TARGETS", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    done = subprocess.run(
        ["make", "images", *given],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=checkout,
    )
    assert done.returncode == 0, done.stderr
    image = image.format(version=version)
    assert done.stdout == f"{image} sha256:0\n"
    label = f"org.opencontainers.image.version={image.rpartition(':')[2]}"
    assert f"--tag {image} --label {label} " in (docker / "calls").read_text()


def test_a_version_that_is_no_tag_is_refused() -> None:
    code, said = _build(VERSION="0.1.0\n1.17.1")
    assert code == 1
    assert said.startswith("images: VERSION: '0.1.0\n1.17.1' is no tag.")


def _pins(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / lock).read_text()
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ ]+)", text, re.MULTILINE))


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_the_versions_that_are_tested(target: str) -> None:
    tested, image = _pins("py311.txt"), _pins(f"images/{target}.txt")
    # TensorFlow for TPUs is an older release, which needs an older tensorboard.
    older = {"tensorboard"} if target == "tpu" else set()
    shared = (tested.keys() & image.keys()) - older
    assert len(shared) > 100
    assert {name: image[name] for name in shared} == {name: tested[name] for name in shared}


@pytest.mark.parametrize("target", TARGETS)
def test_every_package_of_an_image_is_pinned_by_hash(target: str) -> None:
    lock = (ROOT / "requirements" / "images" / f"{target}.txt").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) == len(_pins(f"images/{target}.txt"))
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_cpu_image_brings_the_tested_tensorflow() -> None:
    assert _pins("images/cpu.txt")["tensorflow-cpu"] == _pins("py311.txt")["tensorflow"]


def test_each_target_of_the_dockerfile_installs_its_own_lock() -> None:
    text = (ROOT / "components" / "Dockerfile").read_text()
    for target in TARGETS:
        stage = text.split(f"FROM runtime AS {target}\n")[1].split("\nFROM ")[0]
        assert f"/usr/share/paring/{target}.txt" in stage
        assert 'ENTRYPOINT ["paring"]' in stage
        assert "USER 65532:65532" in stage
