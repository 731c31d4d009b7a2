"""Pushing a selection: a version where the gate passed, and else a reason."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paring import storage
from paring.artifacts import (
    Failure,
    Model,
    PushedModel,
    RuntimeConfiguration,
    SelectedModel,
    Selection,
    Servable,
    content_digest,
    read_record,
)
from paring.errors import ArtifactTypeError, ModelError, ParameterError, StorageError
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.serving.versions import roll_back, versions
from paring.steps.push import push

Push = Callable[..., PushedModel]
FASTER = {"p50_ms": 2.0, "speedup": 5.0, "size_bytes": 250_000}


@pytest.fixture
def candidates(family: Any, tiny_models: dict[str, Path]) -> Any:
    """A family whose candidates can be loaded: the source, and `int8`, which is better."""
    family.add("int8", **FASTER)
    for name, model in (("source", "saved"), ("int8", "one")):
        served = family.path("candidates", name) / "Format-Serving"
        for file in served.iterdir():
            file.unlink()
        served.rmdir()
        storage.put(tiny_models[model], str(served))
        Servable.load(served.parent).save()
    return family


@pytest.fixture
def destination(tmp_path: Path) -> str:
    return str(tmp_path / "serving")


@pytest.fixture
def pushed(candidates: Any, destination: str) -> Push:
    """Selects by the given gate and pushes; gives what became of it."""

    def call(
        gate: dict[str, Any] | None = None, configuration: Path | None = None, **parameters: Any
    ) -> PushedModel:
        candidates.select(**(gate or {}))
        inputs = {name: candidates.root / name for name in ("selection", "selected")}
        if configuration is not None:
            inputs["configuration"] = configuration
        place = candidates.root / "pushed"
        given = {"destination": destination} | parameters
        execute(push, Call(inputs, {"pushed": place}, given))
        return PushedModel.load(place)

    return call


def test_the_selected_model_becomes_a_version(
    pushed: Push, destination: str, tiny_models: dict[str, Path]
) -> None:
    made = pushed(run="paring run")
    assert (made.destination, made.version, made.made, made.note) == (destination, 1, 1, None)
    folder = Path(destination) / "1"
    served = (folder / "model.tflite").read_bytes()
    assert served == (tiny_models["one"] / "model.tflite").read_bytes()
    assert made.model_digest == content_digest(folder)
    assert json.loads(made.file.read_text()) == made.facts()
    (version,) = versions(destination)
    assert (version.candidate, version.run, version.digest) == (
        *("int8", "paring run"),
        made.model_digest,
    )
    assert version.source == Model.load(Path(destination).parent / "candidates/source").digest


def test_a_version_explains_itself(pushed: Push, destination: str) -> None:
    pushed()
    folder = Path(destination) / "1"
    record = read_record(folder)
    assert record is not None
    assert record["digest"] == content_digest(folder)
    assert record["lineage"]["step"] == "select"
    assert record["lineage"]["copy_of"]["type"] == "TFLiteModel"
    assert record["figures"]["speedup"] == 5.0
    assert record["figures"]["outcome"] == "selected"
    loaded = SelectedModel.load(folder)
    assert loaded.candidate == "int8"
    open_runtime(SelectedModel(folder / "model.tflite")).close()


def test_the_same_model_is_not_pushed_twice(pushed: Push, destination: str) -> None:
    first, second = pushed(), pushed()
    assert (second.version, second.made, second.note) == (1, 0, None)
    assert second.model_digest == first.model_digest
    # Other figures of the same model make no other version.
    assert pushed(gate={"objective": "size"}).made == 0
    assert len(versions(destination)) == 1


def test_a_version_that_was_changed_is_replaced_by_the_same_model(
    pushed: Push, destination: str, tiny_models: dict[str, Path]
) -> None:
    digest = pushed().model_digest
    file = Path(destination) / "1" / "model.tflite"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    again = pushed()
    assert (again.version, again.made, again.model_digest) == (2, 1, digest)
    restored = Path(destination) / "2" / "model.tflite"
    assert restored.read_bytes() == (tiny_models["one"] / "model.tflite").read_bytes()
    assert pushed().made == 0


def test_nothing_is_pushed_where_nothing_passes(pushed: Push, destination: str) -> None:
    for push_source in (False, True):
        made = pushed(gate={"max_latency_ms": 0.001}, push_source=push_source)
        assert (made.version, made.made) == (0, 0)
        assert made.note == "nothing passes the gate and the budgets"
        assert json.loads(made.file.read_text())["note"] == made.note
    assert not Path(destination).exists()


def test_the_source_is_pushed_on_request_alone(
    family: Any, pushed: Push, candidates: Any, destination: str
) -> None:
    # Nothing beats the source at a drop that int8 does not keep to.
    evaluation = candidates.path("evaluations", "int8") / "paring.json"
    record = json.loads(evaluation.read_text())
    record["facts"]["drop"] = 0.5
    evaluation.write_text(json.dumps(record))
    kept = pushed()
    assert (kept.version, kept.note) == (0, "the source is kept, and push_source is off")
    assert not Path(destination).exists()
    made = pushed(push_source=True)
    assert (made.version, made.note) == (1, None)
    assert (Path(destination) / "1" / "saved_model.pb").is_file()


def test_what_was_rolled_back_is_not_pushed_again(
    pushed: Push, destination: str, tiny_models: dict[str, Path]
) -> None:
    storage.put(tiny_models["saved"], f"{destination}/1")
    assert pushed().version == 2
    roll_back(destination)
    refused = pushed()
    assert (refused.version, refused.made) == (0, 0)
    assert f"paring rollback {destination} --to 2" in (refused.note or "")
    roll_back(destination, 2)
    assert pushed().version == 4
    assert [item.number for item in versions(destination)] == [1, 2, 3, 4]


def test_a_model_that_can_not_be_loaded_is_not_pushed(
    pushed: Push, candidates: Any, destination: str
) -> None:
    folder = candidates.path("candidates", "int8")
    (folder / "Format-Serving" / "model.tflite").write_text("none")
    Servable.load(folder).save()
    with pytest.raises(ModelError):
        pushed()
    assert versions(destination) == []
    assert not (candidates.root / "pushed").exists()


def _configuration(
    folder: Path, batch_size: int = 8, throughput: float = 100.0, **digests: str
) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"batch_size": batch_size, "threads": 1, "instances": 2}
    lineage = {"inputs": {name: {"digest": digest} for name, digest in digests.items()}}
    RuntimeConfiguration(folder, **settings, throughput=throughput, lineage=lineage).save()
    return folder


def test_a_configuration_lies_beside_the_served_files(
    pushed: Push, destination: str, tmp_path: Path
) -> None:
    made = pushed(configuration=_configuration(tmp_path / "tuned"))
    folder = Path(destination) / "1"
    assert json.loads((folder / "runtime.json").read_text()) == {
        **{"batch_size": 8, "threads": 1, "instances": 2},
        "gpu_memory_mb": 0,
    }
    # A TFLite file is not served by TF Serving's batching.
    assert not (folder / "batching_parameters.txt").exists()
    record = read_record(folder)
    assert record is not None
    assert record["configuration"]["throughput"] == 100.0
    assert made.model_digest == content_digest(folder) == record["digest"]
    (version,) = versions(destination)
    assert version.digest == made.model_digest != version.model
    open_runtime(SelectedModel(folder)).close()


def test_who_serves_a_file_that_holds_state_is_told(
    pushed: Push, destination: str, candidates: Any, tmp_path: Path
) -> None:
    import tensorflow as tf
    import tf_keras

    recurrent = tf_keras.Sequential(
        [tf_keras.Input((2, 1), batch_size=1, name="x"), tf_keras.layers.LSTM(1)]
    )
    file = candidates.path("candidates", "int8") / "Format-Serving" / "model.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(recurrent).convert())
    Servable.load(file.parents[1]).save()
    pushed()
    settings = json.loads((Path(destination) / "1" / "runtime.json").read_text())
    assert settings == {"holds_state": True}
    # It is the same model still.
    assert pushed().made == 0
    made = pushed(configuration=_configuration(tmp_path / "tuned"))
    settings = json.loads((Path(destination) / "2" / "runtime.json").read_text())
    assert settings["holds_state"] is True
    assert (settings["batch_size"], made.made) == (8, 1)


def _batching_parameters() -> Any:
    """TF Serving's message BatchingParameters, as session_bundle_config.proto has it."""
    from google.protobuf import (
        descriptor_pb2,
        descriptor_pool,
        message_factory,
        wrappers_pb2,
    )

    wrapped = [
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
    ]
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(wrapped, start=1):
        message.field.add(
            name=name,
            number=number,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    result = pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters")
    return message_factory.GetMessageClass(result)()


def test_a_savedmodel_gets_tf_servings_batching_parameters(
    pushed: Push, candidates: Any, destination: str, tmp_path: Path
) -> None:
    from google.protobuf import text_format

    evaluation = candidates.path("evaluations", "int8") / "paring.json"
    record = json.loads(evaluation.read_text())
    record["facts"]["drop"] = 0.5
    evaluation.write_text(json.dumps(record))
    pushed(push_source=True, configuration=_configuration(tmp_path / "tuned"))
    folder = Path(destination) / "1"
    text = (folder / "batching_parameters.txt").read_text()
    result = text_format.Parse(text, _batching_parameters())
    assert (result.max_batch_size.value, result.num_batch_threads.value) == (8, 2)
    assert "--tensorflow_intra_op_parallelism=1" in text
    open_runtime(SelectedModel(folder)).close()


def test_other_settings_make_another_version_and_other_figures_none(
    pushed: Push, destination: str, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    assert pushed(configuration=_configuration(tuned)).made == 1
    again = pushed(configuration=_configuration(tuned, throughput=200.0))
    assert (again.version, again.made) == (1, 0)
    other = pushed(configuration=_configuration(tuned, batch_size=16))
    assert (other.version, other.made) == (2, 1)
    first, second = versions(destination)
    assert first.model == second.model


def test_other_settings_do_not_bring_back_what_was_rolled_back(
    pushed: Push, destination: str, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    storage.put(tiny_models["saved"], f"{destination}/1")
    tuned = tmp_path / "tuned"
    assert pushed(configuration=_configuration(tuned)).version == 2
    roll_back(destination)
    for refused in (pushed(configuration=_configuration(tuned, batch_size=16)), pushed()):
        assert (refused.version, refused.made) == (0, 0)
        assert f"paring rollback {destination} --to 2" in (refused.note or "")


def test_settings_that_were_rolled_back_leave_the_model_others(
    pushed: Push, destination: str, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    for batch_size in (8, 16):
        pushed(configuration=_configuration(tuned, batch_size=batch_size))
    roll_back(destination)
    assert pushed(configuration=_configuration(tuned, batch_size=16)).version == 0
    assert pushed(configuration=_configuration(tuned, batch_size=32)).version == 4


def test_the_configuration_of_another_model_is_refused(
    pushed: Push, candidates: Any, destination: str, tmp_path: Path
) -> None:
    own = content_digest(candidates.path("candidates", "int8"))
    assert pushed(configuration=_configuration(tmp_path / "own", candidate=own)).version == 1
    for inputs in ({"source": own, "candidate": "sha256:0"}, {"source": "sha256:0"}):
        other = _configuration(tmp_path / "other", **inputs)
        with pytest.raises(ParameterError, match="configuration of another model"):
            pushed(configuration=other)


def test_a_model_that_could_not_be_tuned_is_not_pushed(
    pushed: Push, destination: str, tmp_path: Path
) -> None:
    reason = "no setting keeps to the limits\n  received: batch 1"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    RuntimeConfiguration(tuned, failure=Failure("unsupported", "tune_batch", reason)).save()
    made = pushed(configuration=tuned)
    assert (made.version, made.note) == (0, "it could not be tuned: no setting keeps to the limits")
    assert versions(destination) == []
    # Where nothing passes, that is the reason.
    assert "gate" in (pushed(gate={"max_latency_ms": 0.001}, configuration=tuned).note or "")


def test_a_model_is_pushed_into_a_store(pushed: Push, bucket: str, tmp_path: Path) -> None:
    made = pushed(destination=f"s3://{bucket}/serving/digits")
    assert made.version == 1
    back = storage.fetch(f"s3://{bucket}/serving/digits/1", tmp_path / "back")
    assert content_digest(back) == made.model_digest


def test_a_bucket_that_is_not_there_is_named(pushed: Push, bucket: str) -> None:
    with pytest.raises(StorageError, match="absent-bucket"):
        pushed(destination="s3://absent-bucket/serving")


def test_a_push_needs_a_destination(pushed: Push) -> None:
    with pytest.raises(ParameterError, match="destination"):
        pushed(destination="")


def test_the_outputs_of_two_selections_are_not_mixed(candidates: Any, destination: str) -> None:
    candidates.select(max_latency_ms=0.001)
    storage.put(candidates.root / "selected", str(candidates.root / "other"))
    candidates.select()
    inputs = {"selection": candidates.root / "selection", "selected": candidates.root / "other"}
    call = Call(inputs, {"pushed": candidates.root / "pushed"}, {"destination": destination})
    with pytest.raises(ParameterError, match="not the selected model") as raised:
        execute(push, call)
    assert raised.value.received == "source, not int8"


def test_an_earlier_candidate_of_the_same_name_is_not_pushed_as_the_chosen_one(
    candidates: Any, destination: str, tiny_models: dict[str, Path]
) -> None:
    candidates.select()
    storage.put(candidates.root / "selected", str(candidates.root / "earlier"))
    served = candidates.path("candidates", "int8") / "Format-Serving"
    storage.put(tiny_models["two"], str(served))
    Servable.load(served.parent).save()
    candidates.select()
    inputs = {"selection": candidates.root / "selection", "selected": candidates.root / "earlier"}
    call = Call(inputs, {"pushed": candidates.root / "pushed"}, {"destination": destination})
    with pytest.raises(ParameterError, match="this int8 is not the one that the selection chose"):
        execute(push, call)
    assert versions(destination) == []


def test_a_selection_that_can_not_be_read_is_named(candidates: Any, destination: str) -> None:
    candidates.select()
    (candidates.root / "selection" / "selection.json").write_text("{}")
    Selection.load(candidates.root / "selection").save()
    inputs = {name: candidates.root / name for name in ("selection", "selected")}
    call = Call(inputs, {"pushed": candidates.root / "pushed"}, {"destination": destination})
    with pytest.raises(ArtifactTypeError, match=r"selection\.json"):
        execute(push, call)


@pytest.mark.parametrize(
    "name", ["selection/selection.json", "selected/Format-Serving/model.tflite"]
)
def test_what_was_changed_after_it_was_selected_is_not_pushed(
    candidates: Any, destination: str, name: str
) -> None:
    candidates.select()
    file = candidates.root / name
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # As a fault of the disk would leave it.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    inputs = {name: candidates.root / name for name in ("selection", "selected")}
    call = Call(inputs, {"pushed": candidates.root / "pushed"}, {"destination": destination})
    with pytest.raises(ArtifactTypeError, match="has been changed since it was written"):
        execute(push, call)
    assert versions(destination) == []
