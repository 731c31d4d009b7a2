"""The compiled package, run as pods with our image: what the local run selects, they select."""

import json
import shlex
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import K8S, RUNS
from tests.cluster.packages import compile_package
from tests.cluster.pods import Attempt, PodStarter, at_work, kill_process
from tests.conformance.kfp_pods import Pod
from tests.conformance.kfp_runner import run_package
from tests.images.test_cpu_image import OPTIONS, RECIPES, SETTINGS, compare_candidates, copied

from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.runners.session import run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1500, func_only=True),
    pytest.mark.usefixtures("applied"),
]

# One small machine, with retries.
RETRIES = "[defaults]\nretries = 2\n"


def test_the_package_as_pods_selects_what_the_local_run_selects(
    cluster: Cluster,
    image: str,
    tmp_path: Path,
    shared: Path,
    digits_model: Path,
    digits_npz: Path,
) -> None:
    """Though one pod is killed on the way, and the machine of another one vanishes."""
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(RECIPES)
    retries = tmp_path / "retries.toml"
    retries.write_text(RETRIES)
    package = tmp_path / "package.yaml"
    runtime = K8S / "overlays" / "kind" / "watch" / "runtime.toml"
    options = f"--image {image} --recipes {recipes} --runtime {runtime} --runtime {retries}"
    compile_package(package, *shlex.split(options), *shlex.split(OPTIONS))
    (shared / "sources").mkdir()
    model = copied(digits_model, shared / "sources" / "model")
    examples = copied(digits_npz, shared / "sources" / "digits.npz")

    def lose_machine(made: Pod) -> None:
        at_work(made)
        cluster.replace_machine()

    pods = PodStarter(
        cluster,
        RUNS["kind"],
        "paring-runner",
        shared,
        incidents={"prune-trained": kill_process, "evaluate-trained": lose_machine},
    )
    first = cluster.machine
    as_pods = run_package(
        package,
        shared / "root",
        {"model_uri": str(model), "examples_uri": str(examples), "source_digest": "sha256:1"},
        pods,
    )
    second = cluster.machine
    locally = run(
        model, examples, recipes=load_recipes(recipes), settings=SETTINGS, out=tmp_path / "local"
    )

    chosen = json.loads((as_pods.path("select", "selection") / "selection.json").read_text())
    assert chosen["selected"] == locally.selection.selected != "source"
    compare_candidates(chosen, locally)
    assert [item for item in pods.attempts if item.task == "prune-trained"] == [
        Attempt("prune-trained", first, "Failed", 137),
        Attempt("prune-trained", first, "Succeeded", 0),
    ]
    assert [item for item in pods.attempts if item.task == "evaluate-trained"] == [
        Attempt("evaluate-trained", first, "vanished", None),
        Attempt("evaluate-trained", second, "Succeeded", 0),
    ]
    assert len(pods.attempts) == len(as_pods.commands) + 2
    assert not pods.warnings
