"""Images, really built on a base made here, by Debian's podman."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BASE = "localhost/paring-base:bookworm"

SOURCE = "https://example.org/paring"

# What is kept from one test session to the next: the base and the layers, about 3 GB.
CACHE = Path.home() / ".cache" / "paring-images"

# Root's limits are above what runc may set where it runs inside a sandbox.
_LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]

# As k8s/ runs it.
_HARDENED = [
    "--rm",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
]


@dataclass
class Podman:
    """Debian's podman, with a storage of its own.

    Attributes:
        folder: Holds the storage.
        environment: What it is started with.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        storage, run = self.folder / "storage", self.folder / "run"
        return [f"--root={storage}", f"--runroot={run}", "--runtime=runc"]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command; with `check`, its output is in the error."""
        done = subprocess.run(
            ["podman", *self.flags, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"podman {arguments[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def run_command(self, image: str, *options: str, network: str = "none") -> list[str]:
        """The command that runs `image`; its arguments are to follow."""
        hardened = [f"--network={network}", *_HARDENED]
        return ["podman", *self.flags, "run", *hardened, *_LIMITS, *options, image]


@dataclass(frozen=True)
class Built:
    """Image that `make images` built.

    Attributes:
        name: The image's, with its tag.
        digest: As it was printed.
        sbom: The file beside the image.
    """

    name: str
    digest: str
    sbom: Path


@contextmanager
def alone() -> Iterator[None]:
    """Keep other test sessions from building or tidying up meanwhile."""
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """podman with the base image in its storage."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with alone():
        prepared = subprocess.run(
            [ROOT / "tests/images/prepare.sh", BASE, CACHE],
            capture_output=True,
            text=True,
            check=False,
        )
    if prepared.returncode:
        raise RuntimeError(
            "the container tools or the base image could not be made, without which no "
            f"image can be tested:\n{prepared.stdout}{prepared.stderr}"
        )
    # Packages that a build fetches are kept below TMPDIR, and not after the tests.
    temporary = tmp_path_factory.mktemp("podman")
    return Podman(CACHE, os.environ | {"TMPDIR": str(temporary)})


@pytest.fixture(scope="session")
def cpu_image(podman: Podman) -> Iterator[Built]:
    """The cpu image of this checkout, by `make images`."""
    with alone():
        # Another session may test another checkout.
        made = make_image(podman, f"tested-{os.getpid()}", source=SOURCE)
    yield made
    with alone():
        # Under one name for all sessions, so that the next build finds the newest layers.
        podman("tag", made.name, "paring-cpu:newest")
        podman("rmi", made.name)
        podman("image", "prune", "--force")
    shutil.rmtree(podman.environment["TMPDIR"])


def make_image(
    podman: Podman, version: str, *, source: str, checkout: Path = ROOT, target: str = "cpu"
) -> Built:
    """Run `make images` for one target of this checkout, or of another."""
    done = subprocess.run(
        [
            "make",
            # As a make within another one it would tell of folders.
            "--no-print-directory",
            "images",
            f"TARGETS={target}",
            "IMAGE_TOOL=podman",
            f"VERSION={version}",
            f"BASE={BASE}",
            f"SOURCE={source}",
            f"IMAGE_TOOL_FLAGS={' '.join(podman.flags)}",
            f"IMAGE_BUILD_FLAGS={' '.join(_build_flags())}",
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        env=podman.environment,
    )
    if done.returncode:
        raise RuntimeError(f"make images ended with {done.returncode}\n{done.stdout}{done.stderr}")
    name, digest = done.stdout.splitlines()[-1].split()
    return Built(name, digest, checkout / f"out/images/{target}.sbom.json")


def _build_flags() -> Sequence[str]:
    """The build shares this machine's network and its ways to a package index."""
    secrets = {
        "ca": [Path("/etc/ssl/certs/ca-certificates.crt")],
        "pip": [Path("/etc/pip.conf")],
        "uv": [Path.home() / ".config/uv/uv.toml", Path("/etc/uv/uv.toml")],
    }
    flags = ["--isolation=chroot", "--network=host"]
    for name, files in secrets.items():
        result = [file for file in files if file.exists()]
        flags += [f"--secret=id={name},src={file}" for file in result[:1]]
    return flags
