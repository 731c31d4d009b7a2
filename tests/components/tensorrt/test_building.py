"""The server's settings, by the calls that TensorRT for RTX has as well.

TensorRT for servers is not here. Both products have one API, so that what only the
server's product calls is called here too; that RTX ignores some of it is in its warnings.
"""

import importlib.util
from pathlib import Path

import pytest
from tests.helpers import graphs

from paring.errors import MissingDependencyError, UnsupportedError
from paring.tensorrt.building import Built, Request, build_engine
from paring.tensorrt.library import Library, load_library

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")


@pytest.fixture
def library() -> Library:
    rtx = load_library("rtx")
    return Library("server", rtx.module, rtx.version)


def build(library: Library, folder: Path, **settings: object) -> Built:
    file = graphs.product(folder / "model.onnx", graphs.FLOAT)
    request = Request(file, (1, 2, 4), True, 64, "8.9", **settings)  # type: ignore[arg-type]
    return build_engine(library, request, inspect=False)


@pytest.mark.parametrize("level", ["none", "same_compute_capability", "ampere_plus"])
def test_the_timing_cache_is_handed_on(level: str, library: Library, tmp_path: Path) -> None:
    first = build(library, tmp_path, hardware_compatibility=level)
    assert first.timing_cache
    second = build(library, tmp_path, timing_cache=first.timing_cache)
    assert second.content == first.content
    assert second.batches == (1, 2, 4)


def test_version_compatibility_is_asked_for(library: Library, tmp_path: Path) -> None:
    # RTX's packages lack what it needs, and the builder says so.
    with pytest.raises(UnsupportedError, match="lean"):
        build(library, tmp_path, version_compatible=True)


def test_a_library_that_is_not_installed_is_named_with_its_package() -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT for servers is installed here")
    with pytest.raises(MissingDependencyError, match="pip install tensorrt"):
        load_library("server")
