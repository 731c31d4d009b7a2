"""Packages are the same, and run, whichever release of the SDK compiles them."""

from pathlib import Path

import pytest
from tests.conformance.kfp_release import (
    RELEASES,
    install,
    pinned,
    pytest_arguments,
    run_python,
    without_release,
)

# The second one compares with the committed packages, and runs some by the conformance runner.
FILES = [
    str(Path(__file__).with_name(name)) for name in ("test_component_files.py", "test_compile.py")
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("release", RELEASES, ids=[item.stem for item in RELEASES])
def test_another_release_compiles_the_same_packages_and_they_run(
    release: Path, tmp_path: Path
) -> None:
    install(release, tmp_path)
    result = run_python(tmp_path, "-c", "import kfp, kfp.kubernetes; print(kfp.__version__)")
    assert result.stdout.strip() == pinned(release)["kfp"], result.stderr
    done = run_python(tmp_path, *pytest_arguments([*FILES, "-m", "not slow"]))
    assert done.returncode == 0, done.stdout


def test_nothing_but_the_release_is_left_out_of_the_comparison() -> None:
    text = "name: paring-optimize-0123456789ab\nsdkVersion: kfp-2.17.3\nimage: paring-cpu:0.1.0\n"
    same = "name: paring-optimize-ba9876543210\nsdkVersion: kfp-2.16.1\nimage: paring-cpu:0.1.0\n"
    assert without_release(text) == without_release(same)
    for changed in (
        text.replace("0.1.0", "0.2.0"),
        text.replace("optimize-", "optimise-"),
        text.replace("kfp-", "tfx-"),
    ):
        assert without_release(changed) != without_release(text)
