"""Cut of signatures at their numeric core, on models as their libraries save them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.text_models import (
    example_of,
    save_estimator,
    save_review_classifier,
    save_taxi,
    save_wide_and_deep,
    taxi_rows,
)

from paring.artifacts import Servable
from paring.errors import UnsupportedError
from paring.models.numeric_parts import INTERFACE, POSTPROCESS, Interface, does_text_work
from paring.models.saved_model import SavedModel

Inputs = dict[str, Any]


def _taxi() -> Inputs:
    return {"examples": [example_of(row) for row in taxi_rows(50)]}


def _reviews() -> Inputs:
    return {"review": [["a good film"], ["bad story"], ["never seen words here"], [""]]}


def _people() -> Inputs:
    return {
        "color": [["red"], ["green"], ["blue"]],
        "zip": np.array([[10], [20], [99]], np.int64),
        "age": np.array([[0.5], [-1.0], [2.0]], np.float32),
    }


def _estimated() -> list[bytes]:
    import tensorflow as tf

    result = []
    for row, text in enumerate([b"a", b"c", b"unknown", None]):
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.extend([row, -row, 0.5, 1.0])
        if text is not None:
            example.features.feature["c"].bytes_list.value.append(text)
        result.append(example.SerializeToString())
    return result


def _assert_same(got: Any, expected: Any) -> None:
    """Compare outputs of the same kernels.

    Eigen computes the first and last values of a buffer one by one, and the rest by vectors;
    which those are depends on where the buffer lies, so that the last bits may differ.
    """
    if expected.dtype.kind == "f":
        np.testing.assert_array_max_ulp(got, expected, maxulp=4)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("save", "key", "inputs", "core_inputs"),
    [
        (
            save_taxi,
            "serving_default",
            _taxi,
            {"fare": "float32", "hour": "int64", "company": "int64"},
        ),
        (save_review_classifier, "serving_default", _reviews, {"review": "int64"}),
        (
            save_wide_and_deep,
            "serving_default",
            _people,
            {"age": "float32", "color": "int64", None: "int64"},
        ),
        (
            save_estimator,
            "serving_default",
            lambda: {"inputs": _estimated()},
            {"c": "int64", "x": "float32"},
        ),
        (
            save_estimator,
            "predict",
            lambda: {"examples": _estimated()},
            {"c": "int64", "x": "float32"},
        ),
    ],
    ids=["taxi", "review", "wide", "classify", "predict"],
)
def test_the_joined_parts_answer_as_the_source_does(
    tmp_path: Path,
    save: Callable[[Path], None],
    key: str,
    inputs: Callable[[], Inputs],
    core_inputs: dict[str | None, str],
) -> None:
    import tensorflow as tf

    from paring.graphs.numeric_core import SignatureParts, join_parts

    save(tmp_path / "source")
    source = SavedModel.open(Servable(tmp_path / "source", signature=key))
    assert does_text_work(source)
    interface = SignatureParts(source).write(tmp_path / "parts", tmp_path / "core")
    # None stands for a tensor of several features, which is named for its layer.
    given = {item.name: item.dtype for item in interface.core_inputs}
    known = {name: dtype for name, dtype in core_inputs.items() if name is not None}
    assert given.items() >= known.items()
    assert len(given) == len(core_inputs)
    core = SavedModel.open(Servable(tmp_path / "core", signature=key))
    assert not does_text_work(core)
    assert core.signature().inputs.keys() == given.keys()

    join_parts(tmp_path / "parts", tmp_path / "core", tmp_path / "joined")
    joined = SavedModel.open(tmp_path / "joined")
    assert joined.signature(key) == source.signature(key)
    method = source.meta_graph.signature_def[key].method_name
    assert joined.meta_graph.signature_def[key].method_name == method

    tensors = {name: tf.constant(value) for name, value in inputs().items()}
    expected = tf.saved_model.load(str(source.folder)).signatures[key](**tensors)
    # The vocabulary lies in the joined model, not in a file beside the source.
    (tmp_path / "source").rename(tmp_path / "moved")
    got = tf.saved_model.load(str(joined.folder)).signatures[key](**tensors)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        _assert_same(got[name].numpy(), tensor.numpy())


def test_names_of_classes_come_from_the_core_s_own_scores(tmp_path: Path) -> None:
    from paring.graphs.numeric_core import SignatureParts

    save_estimator(tmp_path / "source")
    parts = SignatureParts(SavedModel.open(tmp_path / "source"))
    interface = parts.write(tmp_path / "parts", tmp_path / "core")
    assert interface.core_outputs == ("scores",)
    assert interface.post_inputs == ("scores",)
    assert interface.post_outputs == ("classes",)
    assert (tmp_path / "parts" / POSTPROCESS / "saved_model.pb").is_file()
    assert Interface.read(tmp_path / "parts" / INTERFACE) == interface


def test_features_are_described_as_the_model_parses_them(tmp_path: Path) -> None:
    from paring.graphs.numeric_core import SignatureParts

    save_taxi(tmp_path / "source")
    parts = SignatureParts(SavedModel.open(tmp_path / "source"))
    features = {item.name: item for item in parts.features["examples"]}
    assert (features["fare"].dtype, features["fare"].shape) == ("float32", (1,))
    assert (features["hour"].dtype, features["company"].dtype) == ("int64", "object")
    assert features["company"].shape is None
    assert [name for name, item in features.items() if item.required] == ["hour"]


def test_saved_layers_of_transform_are_text_work(tmp_path: Path) -> None:
    """The layer of tensorflow-transform is a model of TensorFlow 1 within the signature."""
    import keras
    import tensorflow as tf

    from paring.graphs.numeric_core import SignatureParts, join_parts

    transform = _saved_transform(tmp_path / "transform")
    keras.utils.set_random_seed(0)
    table = tf.Variable(tf.random.stateless_normal([6, 4], [1, 2]))
    kernel = tf.Variable(tf.random.stateless_normal([5, 1], [3, 4]))
    module = tf.Module()
    module.held = [transform, table, kernel]
    spec = {
        "company": tf.io.VarLenFeature(tf.string),
        "fare": tf.io.FixedLenFeature([], tf.float32),
    }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> dict[str, Any]:
        ready = transform(tf.io.parse_example(examples, spec))
        embedded = tf.nn.embedding_lookup(table, ready["company_xf"])
        joined = tf.concat([embedded, ready["fare_xf"][:, None]], 1)
        return {"outputs": tf.sigmoid(joined @ kernel)}

    tf.saved_model.save(module, str(tmp_path / "source"), signatures={"serving_default": serve})
    source = SavedModel.open(tmp_path / "source")
    interface = SignatureParts(source).write(tmp_path / "parts", tmp_path / "core")
    assert {item.name: item.dtype for item in interface.core_inputs} == {
        "company": "int64",
        "fare": "float32",
    }
    join_parts(tmp_path / "parts", tmp_path / "core", tmp_path / "joined")
    examples = tf.constant(
        [example_of({"company": row["company"], "fare": row["fare"]}) for row in taxi_rows(20)]
    )
    expected = tf.saved_model.load(str(source.folder)).signatures["serving_default"](examples)
    got = tf.saved_model.load(str(tmp_path / "joined")).signatures["serving_default"](examples)
    _assert_same(got["outputs"].numpy(), expected["outputs"].numpy())


def _saved_transform(folder: Path) -> Any:
    """Return the layer of a small preprocessing function, analyzed and saved by the library."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    def preprocess(inputs: dict[str, Any]) -> dict[str, Any]:
        sparse = inputs["company"]
        shape = [sparse.dense_shape[0], 1]
        dense = tf.sparse.to_dense(tf.SparseTensor(sparse.indices, sparse.values, shape), "")
        company = tf.squeeze(dense, axis=1)
        return {
            "company_xf": tft.compute_and_apply_vocabulary(company, num_oov_buckets=1),
            "fare_xf": tft.scale_to_z_score(inputs["fare"]),
        }

    schema = schema_utils.schema_from_feature_spec(
        {
            "company": tf.io.VarLenFeature(tf.string),
            "fare": tf.io.FixedLenFeature([], tf.float32),
        }
    )
    rows = [
        {"fare": row["fare"], "company": [row["company"]] if row["company"] else []}
        for row in taxi_rows(100)
    ]
    metadata = dataset_metadata.DatasetMetadata(schema)
    # Beam's own choice of a runner would be downloaded.
    with (
        beam.Pipeline(runner="FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "temporary")),
    ):
        data = pipeline | beam.Create(rows)
        function = (data, metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = function | tft_beam.WriteTransformFn(str(folder / "output"))
    return tft.TFTransformOutput(str(folder / "output")).transform_features_layer()


def test_a_model_without_weights_after_its_text_has_no_core(tmp_path: Path) -> None:
    import tensorflow as tf

    from paring.graphs.numeric_core import SignatureParts

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serve(text: Any) -> dict[str, Any]:
        return {"length": tf.cast(tf.strings.length(text), tf.float32) * 2.0}

    tf.saved_model.save(module, str(tmp_path / "source"), signatures={"serving_default": serve})
    with pytest.raises(UnsupportedError, match="has no dense numeric core"):
        SignatureParts(SavedModel.open(tmp_path / "source"))


def test_an_embedding_of_sparse_ids_stays_before_the_core(tmp_path: Path) -> None:
    """Its ids have no row for each example, so that they can't cross."""
    import tensorflow as tf

    from paring.graphs.numeric_core import SignatureParts

    module = tf.Module()
    module.table = tf.Variable(tf.random.stateless_normal([10, 4], [1, 2]))
    module.kernel = tf.Variable(tf.random.stateless_normal([4, 2], [3, 4]))
    spec = {"ids": tf.io.VarLenFeature(tf.int64)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> dict[str, Any]:
        ids = tf.io.parse_example(examples, spec)["ids"]
        mean = tf.nn.safe_embedding_lookup_sparse(module.table, ids, combiner="mean")
        return {"scores": mean @ module.kernel}

    tf.saved_model.save(module, str(tmp_path / "source"), signatures={"serving_default": serve})
    parts = SignatureParts(SavedModel.open(tmp_path / "source"))
    interface = parts.write(tmp_path / "parts", tmp_path / "core")
    (crossing,) = interface.core_inputs
    assert (crossing.name, crossing.dtype, crossing.shape) == ("ids", "float32", (None, 4))
    assert parts.frontier.outside_weights == 40


def _padded(examples: Any) -> Any:
    import tensorflow as tf

    return tf.sparse.to_dense(
        tf.io.parse_example(examples, {"ids": tf.io.VarLenFeature("int64")})["ids"]
    )


def _sequences(examples: Any) -> Any:
    import tensorflow as tf

    feature = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    return tf.io.parse_example(examples, {"ids": feature})["ids"]


def _words(text: Any) -> Any:
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(tf.strings.split(text), 20).to_tensor()


def _numbers(text: Any) -> Any:
    import tensorflow as tf

    return tf.strings.to_number(tf.strings.split(text, ","), tf.int64).to_tensor()


def _tokens(tokens: Any) -> Any:
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(tokens, 20)


def _ids(counts: list[int]) -> list[bytes]:
    import tensorflow as tf

    examples = [tf.train.Example() for _ in counts]
    for example, count in zip(examples, counts, strict=True):
        example.features.feature["ids"].int64_list.value.extend(range(1, count + 1))
    return [example.SerializeToString() for example in examples]


@pytest.mark.parametrize(
    ("to_ids", "shape", "given"),
    [
        (_padded, [None], lambda n: _ids([2, n])),
        (_sequences, [None], lambda n: _ids([2, n])),
        (_words, [None], lambda n: ["a b", " ".join("abcdefg"[:n])]),
        (_numbers, [None], lambda n: ["1,2", ",".join("1234567"[:n])]),
        (_tokens, [None, None], lambda n: [list("abcdefg"[:n]), list("gfedcba"[:n])]),
    ],
    ids=["sparse", "sequences", "words", "numbers", "tokens"],
)
def test_lengths_that_vary_stay_open(
    tmp_path: Path, to_ids: Callable[[Any], Any], shape: list[None], given: Callable[[int], Any]
) -> None:
    """Made-up batches that happened to be equally long must not fix the core's inputs."""
    import tensorflow as tf

    from paring.graphs.numeric_core import SignatureParts, join_parts

    module = tf.Module()
    module.table = tf.Variable(tf.random.stateless_normal([20, 4], [1, 2]))
    module.kernel = tf.Variable(tf.random.stateless_normal([4, 2], [3, 4]))

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.string, name="raw")])
    def serve(raw: Any) -> dict[str, Any]:
        return {"scores": tf.reduce_sum(tf.gather(module.table, to_ids(raw)), 1) @ module.kernel}

    source, joined = tmp_path / "source", tmp_path / "joined"
    tf.saved_model.save(module, str(source), signatures={"serving_default": serve})
    parts = SignatureParts(SavedModel.open(source))
    parts.write(tmp_path / "parts", tmp_path / "core")
    join_parts(tmp_path / "parts", tmp_path / "core", joined)
    whole, again = tf.saved_model.load(str(source)), tf.saved_model.load(str(joined))
    for length in (1, 2, 3, 7):
        raw = tf.constant(given(length))
        expected = whole.signatures["serving_default"](raw=raw)["scores"]
        got = again.signatures["serving_default"](raw=raw)["scores"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_boundaries_of_buckets_are_no_weights(tmp_path: Path) -> None:
    """Transform's bucketize reads a matrix of floats, and counting the buckets is text work."""
    import tensorflow as tf

    from paring.graphs.numeric_core import SignatureParts

    module = tf.Module()
    module.kernel = tf.Variable(tf.random.stateless_normal([4, 8], [3, 4]))
    spec = {"miles": tf.io.FixedLenFeature([], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> dict[str, Any]:
        miles = tf.io.parse_example(examples, spec)["miles"]
        boundaries = tf.constant([[1.0, 2.0, 3.0]])
        buckets = tf.searchsorted(boundaries, miles[None], side="right")[0]
        counts = tf.math.bincount(
            buckets[:, None], minlength=4, maxlength=4, dtype=tf.float32, axis=-1
        )
        return {"scores": counts @ module.kernel}

    tf.saved_model.save(module, str(tmp_path / "source"), signatures={"serving_default": serve})
    parts = SignatureParts(SavedModel.open(tmp_path / "source"))
    interface = parts.write(tmp_path / "parts", tmp_path / "core")
    (crossing,) = interface.core_inputs
    assert (crossing.name, crossing.dtype, crossing.shape) == ("miles", "float32", (None, 4))
