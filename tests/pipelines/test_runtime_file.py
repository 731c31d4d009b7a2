"""What k8s/runtime.toml may hold, and in which words the rest is refused."""

from pathlib import Path

import pytest

from paring.errors import ParameterError
from paring_pipelines.runtime_file import chips, quantity, read_runtime


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("4", 4), ("0.5", 0.5), ("500m", 0.5), ("4Gi", 4 * 2**30), ("500M", 5e8)),
        *(("1Ki", 1024), ("2E", 2e18), ("1Pi", 2**50)),
    ],
)
def test_quantities_are_read_as_kubernetes_does(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


def test_a_topology_is_the_product_of_its_sides() -> None:
    assert [chips(one) for one in ("1x1", "2x2", "2x4")] == [1, 4, 8]


def test_numbers_may_stand_for_cores_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text('[defaults]\ncpu = 2\ncpu_limit = 2.5\nmemory = 1000000\nshm = "1Gi"\n')
    assert read_runtime(path).defaults.given() == {
        **{"cpu": "2", "cpu_limit": "2.5"},
        **{"memory": "1000000", "shm": "1Gi"},
    }


_POOL = "[pools.gpu]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("placed = 1", "placed: there is no such key"),
        ("place = 3", r"\[place\]: input should be a valid list"),
        ("[images", "is not TOML"),
        ('[images]\ncppu = "x"', r"\[images\]: cppu: input should be 'cpu', 'gpu'"),
        ('[images]\ncpu = "a b"', r"\[images\]: cpu: must be the reference of an image"),
        ("[defaults]\ncpuu = 1", r"\[defaults\]: cpuu: there is no such key(.|\n)*mean 'cpu'"),
        ('[defaults]\ncpu = "four"', r"\[defaults\]: cpu: must be cores"),
        ('[defaults]\nmemory = "4GB"', r"\[defaults\]: memory: must be bytes"),
        ("[defaults]\ncpu = true", r"\[defaults\]: cpu: "),
        ("[defaults]\ntimeout_seconds = 0", r"\[defaults\]: timeout_seconds: "),
        ("[defaults]\nbackoff_max_seconds = 3601", r"\[defaults\]: backoff_max_seconds: "),
        ("[defaults]\nbackoff_factor = 1.5", r"\[defaults\]: backoff_factor: "),
        ("[[place]]\ncpu = 1", r"\[\[place\]\] 1: needs a step or a node"),
        (
            '[[place]]\nstep = "prune"\n[[place]]\nstep = "prune"\nretry = 1',
            r"\[\[place\]\] 2: retry: there is no such key(.|\n)*mean 'retries'",
        ),
        (f"{_POOL}label = 1", r"\[pools.gpu\]: label: there is no such key"),
        (f'{_POOL}labels = {{ "a b" = "c" }}', r"\[pools.gpu\]: labels a b: must be a key"),
        (f'{_POOL}labels = {{ a = "b c" }}', r"\[pools.gpu\]: labels a: must be a value"),
        (f'{_POOL}accelerator = "tpu-v4"', r"\[pools.gpu\]: accelerator: must be tpu-v5e, tpu-v6e"),
        (f'{_POOL}topology = "4x4"', r"\[pools.gpu\]: topology: input should be '1x1', '2x2'"),
        (
            f'{_POOL}tolerations = [{{ key = "a" }}, {{ keyy = "a" }}]',
            r"\[pools.gpu\]: tolerations 2 key: field required",
        ),
        (
            f'{_POOL}tolerations = [{{ key = "a", operators = "Exists" }}]',
            r"\[pools.gpu\]: tolerations 1 operators: (.|\n)*mean 'operator'",
        ),
        (
            f'{_POOL}tolerations = [{{ key = "a", operator = "Exists", value = "b" }}]',
            r"\[pools.gpu\]: tolerations 1: operator Exists takes no value",
        ),
        ("[targets.gpus]", r"\[targets.gpus\]: input should be 'cpu-server'"),
        ("[targets.gpu]\nplaces = 1", r"\[targets.gpu\]: places: (.|\n)*mean 'place'"),
        ("[targets.gpu.defaults]\nx = 1", r"\[targets.gpu.defaults\]: x: there is no such key"),
        (
            '[[targets.gpu.place]]\nstep = "prune"\nx = 1',
            r"\[\[targets.gpu.place\]\] 1: x: there is no such key",
        ),
    ],
)
def test_what_cannot_be_taken_is_named_by_file_table_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words) as caught:
        read_runtime(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="--runtime: this file can't be read"):
        read_runtime(tmp_path / "absent.toml")
