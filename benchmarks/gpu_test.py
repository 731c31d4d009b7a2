"""Run the tests that need a GPU, and write what came of them: `make gpu-test`.

    python benchmarks/gpu_test.py --out out/gpu-test.json

`--check` looks for a GPU alone, with nothing but Python, so that a machine without one
fails before anything is installed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from paring.errors import ParingError
from paring.tensorrt.driver import find_gpu

PACKAGES = (
    "paring",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
)


def versions() -> dict[str, str]:
    """Return the installed versions of `PACKAGES`."""
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = "absent"
    return result


def read_results(file: Path) -> list[dict[str, Any]]:
    """Each test in pytest's JUnit file: name, outcome, seconds, reason and figures."""
    tests = []
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        ends = {item.tag: item for item in case}
        end = next((tag for tag in ("failure", "error", "skipped") if tag in ends), "passed")
        figures = [
            json.loads(item.get("value", "null"))
            for item in case.iter("property")
            if item.get("name") == "figures"
        ]
        tests.append(
            {
                "name": f"{case.get('classname')}::{case.get('name')}",
                "outcome": {"failure": "failed"}.get(end, end),
                "seconds": float(case.get("time", "nan")),
                "reason": ends[end].get("message", "") if end in ends else "",
                "figures": figures[0] if figures else None,
            }
        )
    return tests


def main() -> int:
    """Returns pytest's exit code, or 14 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only look for a GPU")
    parser.add_argument("--out", type=Path, default=Path("out/gpu-test.json"))
    parser.add_argument("tests", nargs="*", default=["tests"], help="what pytest gets")
    given = parser.parse_args()
    try:
        gpu = find_gpu()
    except ParingError as error:
        print(f"gpu-test: {error}", file=sys.stderr)
        return error.exit_code
    print(f"gpu-test: {gpu.name}, compute capability {gpu.compute_capability}")
    if given.check:
        return 0
    with tempfile.TemporaryDirectory(prefix="paring-gpu-test-") as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={results}"]
        # The family of files that has properties, which the figures are.
        command += ["-o", "junit_family=xunit1"]
        code = subprocess.run([*command, *given.tests], check=False).returncode
        tests = read_results(results) if results.is_file() else []
    content = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": vars(gpu),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "exit_code": code,
        "tests": tests,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"gpu-test: {len(tests)} tests, exit code {code}, in {given.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
