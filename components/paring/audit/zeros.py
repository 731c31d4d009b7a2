"""Dense tensors that are mostly zeros, and multiplied all the same."""

import numpy as np

from paring.audit.finding import Finding, graded, places
from paring.audit.subject import PASSED_ON, PRODUCTS, Subject, value
from paring.graphs.graph import tensor_bytes
from paring.graphs.names import place

_KEEP_ZEROS = PASSED_ON | {
    "Cast", "ConcatV2", "Mul", "Pack", "Slice", "Split", "SplitV", "StridedSlice", "Sum",
    "Transpose", "Unpack",
}  # fmt: skip
"""Behind these a tensor is still mostly zeros, or a sum of few rows that are."""

_MIN_DEPTH = 8
_MIN_ELEMENTS = 4096
_MOSTLY = 0.8
"""A float32 costs 4 bytes; an element of a SparseTensor, with its two int64 indices, 20."""


def one_hot_products(subject: Subject) -> list[Finding]:
    """Find products with a one-hot matrix, which pick a row at the price of a product."""
    result = []
    for op in subject.live:
        if op.type != "OneHot" or (op.outputs[0].shape.rank or 0) < 1:
            continue
        depth = int(value(op.inputs[1])) if value(op.inputs[1]) is not None else 0
        products = [
            item
            for item in subject.behind(op, PRODUCTS, _KEEP_ZEROS)
            if any(value(tensor) is not None for tensor in item.inputs)
        ]
        if depth < _MIN_DEPTH or not products:
            continue
        size = tensor_bytes(op.outputs[0].shape, op.outputs[0].dtype)
        result.append(
            Finding(
                rule="one_hot_product",
                severity=subject.severity(products),
                place=f"{place(op)}, read by {places([place(product) for product in products], 2)}",
                cost=f"1 of {depth} factors is not zero: {subject.cost(products)}; and a matrix"
                f" of {size:,} bytes",
                fix="take the rows with tf.gather(weights, ids), or an Embedding layer",
            )
        )
    return result


def densified_tensors(subject: Subject) -> list[Finding]:
    """Find sparse tensors that are made dense for a product."""
    result = []
    for op in subject.live:
        if op.type != "SparseToDense":
            continue
        products = subject.behind(op, PRODUCTS, _KEEP_ZEROS)
        if products:
            result.append(
                Finding(
                    rule="densified_sparse_tensor",
                    severity=subject.severity(products),
                    place=f"{place(op)}, read by {places([place(item) for item in products], 2)}",
                    cost=f"{subject.cost(products)}, on a tensor that came in sparse",
                    fix="multiply the SparseTensor itself, with tf.sparse.sparse_dense_matmul, or"
                    " tf.nn.embedding_lookup_sparse where its values are weights of rows",
                )
            )
    return result


def zero_weights(subject: Subject) -> list[Finding]:
    """Find matrices of weights that would be smaller as SparseTensors."""
    names: list[str] = []
    flops = saved = 0
    sparsest = 1.0
    for op in subject.live:
        if op.type != "MatMul":
            continue
        weight = value(op.inputs[1])
        if weight is None or weight.size < _MIN_ELEMENTS:
            continue
        zeros = 1 - np.count_nonzero(weight) / weight.size
        if zeros >= _MOSTLY:
            names.append(place(op))
            flops += int(zeros * subject.flops[op.name])
            saved += round(weight.nbytes - (1 - zeros) * weight.size * (weight.itemsize + 16))
            sparsest = min(sparsest, zeros)
    if not names:
        return []
    return [
        Finding(
            rule="mostly_zero_weights",
            severity=graded(subject.share(flops)),
            place=places(names),
            cost=f"at least {sparsest:.0%} zeros: {flops:,} operations an example with a zero,"
            f" {subject.share(flops):.0%} of the model's, and {saved:,} bytes more than sparse",
            fix="hold the matrix as a tf.SparseTensor and multiply with"
            " tf.sparse.sparse_dense_matmul, if that is measured faster; or let prune_channels"
            " take whole units out",
        )
    ]
