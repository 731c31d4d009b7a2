"""Other releases of Kubeflow Pipelines' SDK than the lock's, and what they write alike."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
RELEASES = sorted((ROOT / "requirements" / "kfp").glob("*.txt"))
"""A lock with the SDK of each release but that of the lock."""


def without_release(text: str) -> str:
    """Return a compiled file without what tells the release that compiled it.

    Besides `sdkVersion` that is the digest of the whole content in a PipelineVersion's name.
    """
    text = re.sub(r"kfp-[0-9]+[.][0-9.]+", "kfp-RELEASE", text)
    return re.sub(r"(name: [a-z-]+|displayName: [a-z-]+)-[0-9a-f]{12}$", r"\1", text, flags=re.M)


def install(release: Path, folder: Path) -> None:
    """Install the packages of a lock, hash-checked, into `folder` and nowhere else."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", folder]
    subprocess.run([*command, "--requirement", release], check=True)


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter where the packages in `folder` go before those of the lock."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def pinned(release: Path) -> dict[str, str]:
    """Return the versions in a lock by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", release.read_text(), flags=re.M))


def pytest_arguments(names: Sequence[str]) -> list[str]:
    """Return the arguments of a Python that runs tests, one after another."""
    return ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *names]
