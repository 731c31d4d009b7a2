"""A TFX pipeline of one's own with Paring's steps in it.

Prunes a trained model, converts it to TFLite and pushes both, with TFX's standard
Model and Examples in and TFX's Pusher behind. In a real pipeline the two importers are
your Trainer and ExampleGen.

    python examples/tfx_pipeline.py --model MODEL --examples EXAMPLES --out OUT

MODEL is a folder as TFX's Trainer writes it (the SavedModel in Format-Serving/), or any
SavedModel of tf_keras; EXAMPLES one of TFX's ExampleGen (Split-train/, Split-eval/).
"""

import argparse
from pathlib import Path

from tfx import v1 as tfx

from paring.adapters.tfx import component
from paring.steps.convert_tflite import convert_tflite
from paring.steps.prune import prune


def build(model: Path, examples: Path, out: Path, *, epochs: int = 2) -> tfx.dsl.Pipeline:
    """The pipeline; pushes to `out/savedmodel` and `out/tflite`."""
    trained = tfx.dsl.Importer(
        source_uri=str(model), artifact_type=tfx.types.standard_artifacts.Model
    ).with_id("trained")
    generated = tfx.dsl.Importer(
        source_uri=str(examples),
        artifact_type=tfx.types.standard_artifacts.Examples,
        properties={"split_names": '["train", "eval"]'},
    ).with_id("examples")
    pruned = component(
        prune,
        model=trained.outputs["result"],
        examples=generated.outputs["result"],
        sparsity=0.6,
        epochs=epochs,
    )
    converted = component(convert_tflite, model=pruned.outputs["pruned"], quantization="dynamic")
    channels = {"savedmodel": pruned.outputs["pruned"], "tflite": converted.outputs["converted"]}
    pushers = [
        tfx.components.Pusher(
            model=channel,
            push_destination=tfx.proto.PushDestination(
                filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(out / name))
            ),
        ).with_id(f"push-{name}")
        for name, channel in channels.items()
    ]
    return tfx.dsl.Pipeline(
        pipeline_name="my-pipeline",
        pipeline_root=str(out / "root"),
        components=[trained, generated, pruned, converted, *pushers],
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(out / "metadata.sqlite")
        ),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("model", "examples", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    tfx.orchestration.LocalDagRunner().run(build(given.model, given.examples, given.out))
