"""A Kubeflow pipeline of one's own with Paring's steps in it.

Prunes a trained model, converts it to TFLite, measures the file beside the model, and
hands both to a component of one's own, which lets a file pass that is fast enough. The
two importers stand for your training and your examples.

    python examples/kfp_pipeline.py --image REGISTRY/paring@sha256:DIGEST --out FILE.yaml
"""

import argparse
from pathlib import Path
from typing import Any

from kfp import compiler, components, dsl

from paring.adapters.kfp import component
from paring.steps.benchmark import benchmark
from paring.steps.prune import prune

CONVERT_FILE = Path(__file__).parents[1] / "components" / "yaml" / "convert_tflite.yaml"


@dsl.component(base_image="python:3.11-slim")
def release(
    model: dsl.Input[dsl.Model],
    figures: dsl.Input[dsl.Metrics],
    released: dsl.Output[dsl.Model],
    min_speedup: float,
) -> None:
    """Copy the model if the low end of its speed-up's interval is high enough."""
    import shutil

    # Paring's facts are the artifact's metadata.
    speedup = figures.metadata["speedup_low"]
    if speedup < min_speedup:
        raise RuntimeError(f"{speedup} times as fast, {min_speedup} is required")
    shutil.copytree(model.path, released.path)
    released.metadata.update(model.metadata)


def build(image: str) -> Any:
    """The pipeline, each of Paring's steps on `image`."""
    # Made from the step, and loaded from its file: either will do.
    prune_op, benchmark_op = (component(step, image=image) for step in (prune, benchmark))
    convert_op = components.load_component_from_file(str(CONVERT_FILE))

    @dsl.pipeline(name="my-pipeline")
    def mine(model_uri: str, examples_uri: str, min_speedup: float = 1.5) -> None:
        model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model)
        examples = dsl.importer(artifact_uri=examples_uri, artifact_class=dsl.Dataset)
        pruned = prune_op(model=model.output, examples=examples.output, sparsity=0.6)
        converted = convert_op(model=pruned.outputs["pruned"], quantization="dynamic")
        converted.set_container_image(image)
        measured = benchmark_op(
            source=model.output,
            candidate=converted.outputs["converted"],
            examples=examples.output,
        )
        # Kubeflow does not know which machine it ran on last time.
        measured.set_caching_options(False)
        release(
            model=converted.outputs["converted"],
            figures=measured.outputs["metrics"],
            min_speedup=min_speedup,
        )

    return mine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--image", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    compiler.Compiler().compile(build(given.image), str(given.out))
