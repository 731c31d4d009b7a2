"""Padding to a TPU's tiles, against counts by hand."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.tpu import Padding, paddings, uncounted
from paring.graphs.graph import frozen_graph, load_function
from paring.models.saved_model import SavedModel


def subject(folder: Path, serve: Any, *specs: Any, batch_size: int = 1) -> Subject:
    module = tf.Module()
    module.serve = tf.function(serve, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    signature = SavedModel(folder).signature()
    graph = frozen_graph(load_function(SavedModel(folder)), signature, batch_size)
    return Subject(SavedModel(folder).meta_graph, signature, graph)


def only(padding: list[Padding]) -> Padding:
    assert len(padding) == 1
    return padding[0]


def matrix(rows: int, columns: int) -> Any:
    return tf.random.stateless_normal((rows, columns), (1, 2))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_padded_to_the_unit_and_its_arrays_to_tiles(
    tmp_path: Path, transposed: bool
) -> None:
    right = matrix(100, 300)

    def serve(x: Any) -> dict[str, Any]:
        if transposed:
            return {"y": tf.matmul(x, tf.transpose(right) + x[0, 0], transpose_b=True)}
        return {"y": tf.matmul(x, right + x[0, 0])}

    spec = tf.TensorSpec((None, 100), tf.float32, name="x")
    result = only(paddings(subject(tmp_path / "model", serve, spec, batch_size=20), "float32"))
    assert result.flops == 2 * 20 * 100 * 300
    # 20 rows stream in 24, past a block of 128 by 384.
    assert result.padded_flops == 2 * 24 * 128 * 384
    assert result.waste == pytest.approx(1 - 20 * 100 * 300 / (24 * 128 * 384))
    assert result.size_bytes == 4 * (20 * 100 + 100 * 300 + 20 * 300)
    # The kernel lies better with its 300 columns on 304 sublanes than on 384 lanes.
    assert result.padded_bytes == 4 * (24 * 128 + 304 * 128 + 24 * 384)


def test_a_tile_of_bfloat16_has_twice_the_rows_and_half_the_bytes(tmp_path: Path) -> None:
    spec = tf.TensorSpec((None, 128), tf.float32, name="x")
    made = subject(tmp_path / "model", lambda x: {"y": tf.matmul(x, matrix(128, 128))}, spec)
    single, half = (only(paddings(made, precision)) for precision in ("float32", "bfloat16"))
    assert single.padded_flops == 2 * 8 * 128 * 128
    assert half.padded_flops == 2 * 16 * 128 * 128
    assert single.padded_bytes == 4 * (8 + 128 + 8) * 128
    assert half.padded_bytes == 2 * (16 + 128 + 16) * 128


def test_products_of_many_matrices_are_padded_one_by_one(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {
            "pairs": tf.matmul(x, x, transpose_b=True),
            "einsum": tf.einsum("bhqd,bhkd->bhqk", x, x),
        }

    spec = tf.TensorSpec((None, 4, 10, 64), tf.float32, name="x")
    made = subject(tmp_path / "model", serve, spec, batch_size=2)
    for padding in paddings(made, "float32"):
        assert padding.flops == 2 * 2 * 4 * 10 * 10 * 64
        assert padding.padded_flops == 2 * 2 * 4 * 16 * 128 * 128


def test_one_matrix_for_a_batch_is_one_product(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.raw_ops.BatchMatMulV2(x=x, y=matrix(128, 128))}

    spec = tf.TensorSpec((None, 4, 2, 128), tf.float32, name="x")
    result = only(paddings(subject(tmp_path / "model", serve, spec), "float32"))
    # 4 times 2 rows fill one tile of 8.
    assert result.padded_flops == result.flops == 2 * 8 * 128 * 128


def test_a_depthwise_convolution_is_padded_on_lanes_alone(tmp_path: Path) -> None:
    kernel = tf.random.stateless_normal((3, 3, 96, 1), (1, 2))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "SAME")}

    spec = tf.TensorSpec((None, 4, 4, 96), tf.float32, name="x")
    made = subject(tmp_path / "model", serve, spec, batch_size=8)
    result = only(paddings(made, "float32"))
    assert result.flops == 2 * 8 * 4 * 4 * 96 * 9
    assert result.padded_flops == 2 * 8 * 4 * 4 * 128 * 9


def test_a_transposed_convolution_is_a_product_with_each_input_element(tmp_path: Path) -> None:
    kernel = tf.random.stateless_normal((2, 2, 16, 128), (1, 2))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.conv2d_transpose(x, kernel, (2, 8, 8, 16), 2)}

    spec = tf.TensorSpec((2, 4, 4, 128), tf.float32, name="x")
    result = only(paddings(subject(tmp_path / "model", serve, spec), "float32"))
    assert result.flops == 2 * 2 * 4 * 4 * 128 * 2 * 2 * 16
    # 32 input elements, 128 channels of each, 64 results: the fewest rows stream.
    assert result.padded_flops == 2 * min(32 * 128, 128 * 64) * 128


def test_a_loop_is_named_as_not_counted(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        def step(index: Any, x: Any) -> tuple[Any, Any]:
            return index + 1, tf.ensure_shape(tf.matmul(x, matrix(8, 8)), x.shape)

        return {"y": tf.while_loop(lambda index, _: index < 3, step, (0, x))[1]}

    made = subject(tmp_path / "model", serve, tf.TensorSpec((None, 8), tf.float32, name="x"))
    assert paddings(made, "float32") == []
    assert [item.rpartition("/")[2] for item in uncounted(made)] == ["while"]
