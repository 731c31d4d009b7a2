"""Names and references that Kubernetes takes."""

import pytest

from paring.errors import ParameterError
from paring_pipelines.kubeflow.formats import (
    check_image,
    check_namespace,
    check_object_name,
    is_image,
)


@pytest.mark.parametrize(
    "text",
    [
        *("paring", "paring:0.1.0", "team/paring", "registry.example/team/paring:v1"),
        *("localhost/paring", "localhost:5000/paring", "registry:5000/a/b", "[::1]:5000/a"),
        *("Registry.Example/paring", "a__b/c-d", "a--b:_x", f"r.io/p@sha256:{'0' * 64}"),
        f"r.io/p:1@sha256:{'a' * 64}",
    ],
)
def test_references_of_images_are_taken(text: str) -> None:
    assert is_image(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a b", "x:", ":tag", "x/", "/x", "REG/x", "r.io/PARING", "http://r/x", "r/x:1:2"),
        *("x@sha256:zz", "x@sha256:1", f"x@sha256:{'A' * 64}", "x\n", "é", "a..b", "a/-b"),
    ],
)
def test_what_is_no_reference_of_an_image_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="--image: must be an image as REGISTRY"):
        check_image("--image", text)


@pytest.mark.parametrize("text", ["NS", "a b", "a_b", "kubeflow/x", "a.b", "a" * 64, "-a", "a\n"])
def test_what_is_no_namespace_is_refused(text: str) -> None:
    check_namespace("--namespace", "kubeflow-user-1")
    with pytest.raises(ParameterError, match="--namespace: must be the name of a namespace"):
        check_namespace("--namespace", text)


@pytest.mark.parametrize("text", ["NS", "a b", "a_b", "a..b", "a." * 126 + "aa", "-a", "a\n"])
def test_what_is_no_name_of_an_object_is_refused(text: str) -> None:
    check_object_name("--service-account", "pipeline-runner.v1")
    with pytest.raises(ParameterError, match="--service-account: must be the name"):
        check_object_name("--service-account", text)
