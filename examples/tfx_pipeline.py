"""A TFX pipeline of one's own with Paring's steps in it.

Prunes a trained model, converts it to TFLite, measures both against it, and pushes the best
that is within the limits, with TFX's standard Model and Examples in and TFX's Pusher behind. In a
real pipeline the two importers are your Trainer and ExampleGen.

    python examples/tfx_pipeline.py --model MODEL --examples EXAMPLES --out OUT

MODEL is a folder as TFX's Trainer writes it (the SavedModel in Format-Serving/), or any
SavedModel of tf_keras; EXAMPLES one of TFX's ExampleGen (Split-train/, Split-eval/).

`select` blesses its choice as TFX's Evaluator does, and Pusher pushes nothing else. With
--infra-validation, TFX's InfraValidator has to load it too, in TensorFlow Serving. That needs
Docker on this machine, and leaves TFLite out, which TensorFlow Serving does not take.
"""

import argparse
from pathlib import Path
from typing import Any

from tfx import v1 as tfx

from paring.adapters.tfx import component
from paring.steps.benchmark import benchmark
from paring.steps.convert_tflite import convert_tflite
from paring.steps.evaluate import evaluate
from paring.steps.import_model import import_model
from paring.steps.prune import prune
from paring.steps.select import select


def build(
    model: Path,
    examples: Path,
    out: Path,
    *,
    epochs: int = 2,
    max_accuracy_drop: float = 0.01,
    min_seconds: float = 3.0,
    infra_validation: bool = False,
) -> tfx.dsl.Pipeline:
    """The pipeline; pushes to `out/pushed`."""
    trained = tfx.dsl.Importer(
        source_uri=str(model), artifact_type=tfx.types.standard_artifacts.Model
    ).with_id("trained")
    generated = tfx.dsl.Importer(
        source_uri=str(examples),
        artifact_type=tfx.types.standard_artifacts.Examples,
        properties={"split_names": '["train", "eval"]'},
    ).with_id("examples")
    source = component(import_model, original=trained.outputs["result"])
    pruned = component(
        prune,
        model=source.outputs["model"],
        examples=generated.outputs["result"],
        sparsity=0.6,
        epochs=epochs,
    )
    converted = component(convert_tflite, model=pruned.outputs["pruned"], quantization="dynamic")
    candidates = {"source": source.outputs["model"], "pruned": pruned.outputs["pruned"]}
    if not infra_validation:
        candidates["tflite"] = converted.outputs["converted"]
    pairs = {
        name: {
            "source": source.outputs["model"],
            "candidate": channel,
            "examples": generated.outputs["result"],
        }
        for name, channel in candidates.items()
    }
    benchmarks = {
        name: component(benchmark, node_id=f"benchmark-{name}", min_seconds=min_seconds, **pair)
        for name, pair in pairs.items()
    }
    evaluations = {
        name: component(evaluate, node_id=f"evaluate-{name}", **pair)
        for name, pair in pairs.items()
    }
    selected = component(
        select,
        candidates=candidates,
        benchmarks={name: item.outputs["metrics"] for name, item in benchmarks.items()},
        evaluations={name: item.outputs["evaluation"] for name, item in evaluations.items()},
        max_accuracy_drop=max_accuracy_drop,
    )
    blessings = {"model_blessing": selected.outputs["blessing"]}
    validators = [_infra_validator(selected.outputs["selected"])] if infra_validation else []
    for validator in validators:
        blessings["infra_blessing"] = validator.outputs["blessing"]
    pusher = tfx.components.Pusher(
        model=selected.outputs["selected"],
        **blessings,
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(out / "pushed"))
        ),
    )
    steps = [source, pruned, converted, *benchmarks.values(), *evaluations.values(), selected]
    return tfx.dsl.Pipeline(
        pipeline_name="my-pipeline",
        pipeline_root=str(out / "root"),
        components=[trained, generated, *steps, *validators, pusher],
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(out / "metadata.sqlite")
        ),
    )


def _infra_validator(model: Any) -> Any:
    """Return the component that loads `model` in TensorFlow Serving's container."""
    return tfx.components.InfraValidator(
        model=model,
        serving_spec=tfx.proto.ServingSpec(
            tensorflow_serving=tfx.proto.TensorFlowServing(tags=["latest"]),
            local_docker=tfx.proto.LocalDockerConfig(),
        ),
        validation_spec=tfx.proto.ValidationSpec(max_loading_time_seconds=120, num_tries=2),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("model", "examples", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--infra-validation", action="store_true")
    given = parser.parse_args()
    tfx.orchestration.LocalDagRunner().run(
        build(given.model, given.examples, given.out, infra_validation=given.infra_validation)
    )
