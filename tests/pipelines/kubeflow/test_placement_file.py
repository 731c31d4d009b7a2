"""Fields of k8s/runtime.toml, and the errors about invalid ones."""

from pathlib import Path

import pytest

from paring.errors import ParameterError
from paring_pipelines.kubeflow.formats import quantity
from paring_pipelines.kubeflow.placement_file import read_runtime
from paring_pipelines.kubeflow.placement_values import chips


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("4", 4), ("0.5", 0.5), ("500m", 0.5), ("4Gi", 4 * 2**30), ("500M", 5e8)),
        *(("1Ki", 1024), ("2E", 2e18), ("1Pi", 2**50)),
    ],
)
def test_quantities_are_read_as_kubernetes_does(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("given", "number"),
    [
        *(('"4000k"', "4000000"), ('"4Gi"', "4Gi"), ('"7Ei"', "7Ei"), ("0", "0"), ('"4M"', "4M")),
        *(('"1.5Gi"', "1610612736"), ("4e9", "4000000000"), ('"4e9"', "4000000000")),
        *(('"4E+9"', "4000000000"), ("2000000.5", "2000001"), ('".5Gi"', "536870912")),
        *(('"2.M"', "2000000"), ("1_048_576", "1048576")),
    ],
)
def test_bytes_are_given_to_kfp_in_units_that_it_knows(
    given: str, number: str, tmp_path: Path
) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text(f"[defaults]\nmemory = {given}\n")
    assert read_runtime(path).defaults.memory == number


def test_a_toleration_may_be_of_every_taint_and_end_in_time(tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text(
        "[pools.spot]\ntolerations = ["
        '{ operator = "Exists", effect = "NoExecute", toleration_seconds = 30 }]\n'
    )
    (toleration,) = read_runtime(path).pools["spot"].tolerations
    assert (toleration.key, toleration.toleration_seconds) == (None, 30)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_bytes(b"\xef\xbb\xbf[defaults]\nretries = 1\n")
    assert read_runtime(path).defaults.retries == 1


def test_an_error_does_not_show_the_values_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text('[[place]]\nenv = { A = "secret" }\n')
    with pytest.raises(ParameterError, match="received: a table with env") as raised:
        read_runtime(path)
    assert "secret" not in str(raised.value)


def test_a_topology_is_the_product_of_its_sides() -> None:
    assert [chips(item) for item in ("1x1", "2x2", "2x4")] == [1, 4, 8]


def test_numbers_may_stand_for_cores_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text('[defaults]\ncpu = 2\ncpu_limit = 2.5\nmemory = 2000000\nshm = "1Gi"\n')
    assert read_runtime(path).defaults.given() == {
        **{"cpu": "2", "cpu_limit": "2.5"},
        **{"memory": "2000000", "shm": "1Gi"},
    }


_POOL = "[pools.gpu]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("placed = 1", "placed: there is no such key"),
        ("place = 3", r"\[place\]: input should be a valid list"),
        ("[images", "is not TOML"),
        ('[images]\ncppu = "x"', r"\[images\]: cppu: input should be 'cpu', 'gpu'"),
        ('[images]\ncpu = "a b"', r"\[images\]: cpu: must be an image as (.|\n)*received: a b"),
        ('[images]\ncpu = ""', r"\[images\]: cpu: must be an image as "),
        ('[images]\ncpu = "http://r/x"', r"\[images\]: cpu: must be an image as "),
        ("[defaults]\ncpuu = 1", r"\[defaults\]: cpuu: there is no such key(.|\n)*mean 'cpu'"),
        ('[defaults]\ncpu = "four"', r"\[defaults\]: cpu: must be cores"),
        ('[defaults]\nmemory = "4GB"', r"\[defaults\]: memory: must be bytes"),
        ("[defaults]\ncpu = true", r"\[defaults\]: cpu: "),
        ("[defaults]\ntimeout_seconds = 0", r"\[defaults\]: timeout_seconds: "),
        ("[defaults]\nbackoff_max_seconds = 3601", r"\[defaults\]: backoff_max_seconds: "),
        ("[defaults]\nbackoff_factor = 1.5", r"\[defaults\]: backoff_factor: "),
        ('[defaults]\nmemory = "4000000K"', r"memory: must be bytes, as 4Gi, 500M or 4000k"),
        ('[defaults]\nmemory = "8Ei"', r"memory: must be less than 2\*\*63 bytes"),
        ("[defaults]\nmemory = 4", r"memory: must be 0 or at least 1Mi; a number without a unit"),
        ('[defaults]\nmemory_limit = "1048575"', r"memory_limit: must be 0 or at least 1Mi"),
        ('[defaults]\nmemory = "1e999"', r"memory: must be less than 2\*\*63 bytes"),
        ('[defaults]\nmemory = "1000m"', r"memory: must be bytes"),
        ('[defaults]\nmemory = "1.5"', r"memory: must be 0 or at least 1Mi"),
        ('[defaults]\nmemory = "4G5"', r"memory: must be bytes"),
        ('[defaults]\nshm = "0"', r"\[defaults\]: shm: must be more than 0, .* as no limit"),
        ("[defaults]\nshm = 64", r"\[defaults\]: shm: must be 0 or at least 1Mi"),
        (
            '[defaults]\nenv = { PARING_STEP_TIME_LIMIT = "banana" }',
            r"env: must hold a duration .*TIME_LIMIT(.|\n)*received: banana\n",
        ),
        (
            "[defaults]\nenv = { PARING_STEP_TIME_LIMIT = -1 }",
            r"env: must hold a duration of up to a year in PARING_STEP_TIME_LIMIT",
        ),
        (f'{_POOL}resource = "gpu"', r"\[pools.gpu\]: resource: must be a resource with its"),
        (f'{_POOL}resource = "Nvidia.com/gpu"', r"\[pools.gpu\]: resource: must be a resource"),
        (f'{_POOL}resource = "kubernetes.io/gpu"', r"resource: must not be of the domain"),
        ("[defaults]\ncpu = 0.0001", r"cpu: must be 0, or cores from 1m"),
        ('[defaults]\ncpu_limit = "0.1m"', r"cpu_limit: must be 0, or cores from 1m"),
        (f"[defaults]\ncpu = {10**22}", r"cpu: must be 0, or cores from 1m"),
        ("[defaults]\ntimeout_seconds = 2147483648", r"timeout_seconds: .*less than or equal"),
        ("[defaults]\nretries = 3000000000", r"retries: .*less than or equal to 2147483647"),
        ("[defaults]\nretries = true", r"retries: .*integer\n  received: true"),
        ('[defaults]\nretries = "3"', r"retries: input should be a valid integer"),
        ('[defaults]\ncache = "yes"', r"cache: input should be a valid boolean"),
        ('[defaults]\nsecurity_context = { run_as_user = "1" }', r"run_as_user: .*valid integer"),
        (f"[defaults]\nbackoff_seconds = {10**20}", r"backoff_seconds: "),
        (f"[defaults]\nbackoff_factor = {10**9}", r"backoff_factor: .*equal to 3600"),
        (f"[defaults]\naccelerator_count = {10**20}", r"accelerator_count: "),
        ('[defaults]\nenv = { A = "a\\u0000" }', r"env A: must be text without .*NUL"),
        ('[defaults]\nannotations = { a = "\\u0000" }', r"annotations a: must be text without"),
        ('[pools.none]\nlabels = { a = "b" }', r"\[pools.none\]: .*none stands for any machine"),
        (f"{_POOL}tolerations = [{{}}]", r"tolerations 1: needs a key, or operator = .Exists"),
        (
            f'{_POOL}tolerations = [{{ key = "a", toleration_seconds = 3 }}]',
            r"tolerations 1: toleration_seconds goes with effect NoExecute",
        ),
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
            r"\[pools.gpu\]: tolerations 2 keyy: there is no such key(.|\n)*mean 'key'",
        ),
        (
            f'{_POOL}tolerations = [{{ key = "a", operators = "Exists" }}]',
            r"\[pools.gpu\]: tolerations 1 operators: (.|\n)*mean 'operator'",
        ),
        (
            f'{_POOL}tolerations = [{{ key = "a", operator = "Exists", value = "b" }}]',
            r"\[pools.gpu\]: tolerations 1: operator Exists takes no value",
        ),
        (
            '[pools.x]\nmachine_cpu = "many"',
            r"\[pools.x\]: machine_cpu: must be cores",
        ),
        ('[defaults]\nenv = { "A B" = "c" }', r"\[defaults\]: env A B: must be the name of an env"),
        (
            '[defaults]\nenv = { KFP_POD_NAME = "c" }',
            r"\[defaults\]: env KFP_POD_NAME: must not be one that Kubeflow itself sets",
        ),
        (
            '[defaults]\nenv = { AWS_SECRET_ACCESS_KEY = "c" }',
            r"\[defaults\]: env AWS_SECRET_ACCESS_KEY: must not be a credential, .*env_from_secret",
        ),
        (
            '[defaults]\nenv = { A = "b" }\nenv_from_secret = [{ name = "s", keys = ["A"] }]',
            r"\[defaults\]: environment variables must be given once\n  received: A\n",
        ),
        (
            '[defaults]\nenv_from_secret = [{ name = "S", keys = ["A"] }]',
            r"\[defaults\]: env_from_secret 1 name: must be the name of a Kubernetes object",
        ),
        (
            '[defaults]\nenv_from_secret = [{ name = "s", keys = [] }]',
            r"\[defaults\]: env_from_secret 1 keys: ",
        ),
        (
            '[defaults]\nenv_from_secret = [{ name = "s", key = ["A"] }]',
            r"\[defaults\]: env_from_secret 1 (.|\n)*",
        ),
        (
            '[defaults]\nenv_from_config_map = [{ name = "s", keys = ["A"], optinal = true }]',
            r"\[defaults\]: env_from_config_map 1 optinal: (.|\n)*mean 'optional'",
        ),
        (
            '[defaults]\nimage_pull_policy = "always"',
            r"\[defaults\]: image_pull_policy: input should be 'Always', 'Never' or",
        ),
        (
            '[defaults]\nimage_pull_secrets = ["a_b"]',
            r"\[defaults\]: image_pull_secrets 1: must be the name of a Kubernetes object",
        ),
        ('[defaults]\nlabels = { a = "b c" }', r"\[defaults\]: labels a: must be a value"),
        ('[defaults]\nannotations = { "a b" = "c" }', r"\[defaults\]: annotations a b: must be"),
        (
            '[[place]]\nstep = "prune"\nvolumes = { "/a" = { claim = "b", secret = "c" } }',
            r"\[\[place\]\] 1: volumes /a: needs exactly one of claim, secret and config_map",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { clam = "b" } }',
            r"\[defaults\]: volumes /a clam: (.|\n)*mean 'claim'",
        ),
        (
            '[defaults]\nvolumes = { "a" = { claim = "b" } }',
            r"\[defaults\]: volumes a: must be an absolute path",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { claim = "a" }, "/a/" = { claim = "b" } }',
            r"\[defaults\]: volumes: must not mount at /a and at /a/",
        ),
        (
            '[defaults]\nvolumes = { "/a/../b" = { claim = "b" } }',
            r"\[defaults\]: volumes /a/../b: must be a path without",
        ),
        (
            '[defaults]\nvolumes = { "/minio/b" = { claim = "b" } }',
            r"\[defaults\]: volumes /minio/b: must not be where Kubeflow mounts",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { secret = "b.c" } }',
            r"\[defaults\]: volumes /a secret: must be a name .* without dots",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { secret = "b", sub_path = "c" } }',
            r"\[defaults\]: volumes /a: sub_path goes with a claim only",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { claim = "b", sub_path = "c/../.." } }',
            r"\[defaults\]: volumes /a: sub_path must be a path without",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { claim = "b", optional = true } }',
            r"\[defaults\]: volumes /a: optional goes with",
        ),
        (
            "[defaults]\nsecurity_context = { run_as_user = 0, run_as_non_root = true }",
            r"\[defaults\]: security_context: run_as_user 0 is root",
        ),
        (
            "[defaults]\nsecurity_context = { run_as_user = true }",
            r"\[defaults\]: security_context run_as_user: ",
        ),
        (
            "[targets.gpu.defaults]\nsecurity_context = { run_as_userr = 1 }",
            r"\[targets.gpu.defaults\]: security_context run_as_userr: (.|\n)*mean 'run_as_user'",
        ),
        (
            '[defaults]\nstore_identity = ["bucket"]',
            r"\[defaults\]: store_identity 1: must be gs://, s3:// or minio://",
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


@pytest.mark.parametrize(
    "mounted",
    [
        *("/", "//", "/.", "/proc", "/proc/self", "/sys", "/sys/fs/", "/etc", "/etc/", "/dev"),
        *("/usr", "/bin", "/lib", "/opt/paring", "/run/secrets/kubernetes.io/serviceaccount"),
        *("/var/run/secrets/kubernetes.io/serviceaccount", "/gcs", "/s3/a"),
    ],
)
def test_a_volume_must_not_hide_what_the_container_needs(mounted: str, tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text(f'[defaults]\nvolumes = {{ "{mounted}" = {{ claim = "a" }} }}\n')
    with pytest.raises(ParameterError, match=rf"\[defaults\]: volumes {mounted}: must "):
        read_runtime(path)


@pytest.mark.parametrize(
    "mounted", ["/mnt", "/etc/key", "/dev/shm", "/opt/models", "/tmp", "/procs", "/var/run/a"]
)
def test_a_volume_may_lie_beside_what_the_container_needs(mounted: str, tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text(f'[defaults]\nvolumes = {{ "{mounted}/" = {{ claim = "a" }} }}\n')
    assert list(read_runtime(path).defaults.volumes or ()) == [mounted]


@pytest.mark.parametrize("limit", ['"57min"', '"90s"', "0", '"2h"', "1.5"])
def test_the_time_limit_of_a_step_may_be_set(limit: str, tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text(f"[defaults]\nenv = {{ PARING_STEP_TIME_LIMIT = {limit} }}\n")
    given = read_runtime(path).defaults.env
    assert given == {"PARING_STEP_TIME_LIMIT": limit.strip('"')}


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="--runtime: this file can't be read"):
        read_runtime(tmp_path / "absent.toml")


def test_a_credential_that_is_refused_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "runtime.toml"
    path.write_text('[defaults]\nenv = { AWS_SESSION_TOKEN = "hush" }')
    with pytest.raises(ParameterError) as caught:
        read_runtime(path)
    assert "hush" not in str(caught.value)
