"""Profile of a model: its weights, operations and memory, and an audit of its graph."""

import json
import logging

from paring.artifacts import Model, ModelProfile, content_digest
from paring.step import Input, Output, step

_log = logging.getLogger(__name__)

LARGEST = 10


@step(version="4")
def profile(model: Input[Model], profile: Output[ModelProfile]) -> None:
    """Count a model's weights, operations and memory, and audit its graph.

    Everything is read from the inference graph of the SavedModel, with its
    variables frozen, so a model without a Keras form is profiled the same way.
    `profile.json` holds, for one example:

    - `source`: the digest of the model's bytes;
    - `signature`: inputs and outputs with shape (null where it varies) and dtype;
    - `batch_size`: the batch size of the profile: 1, or the model's fixed one;
    - `parameters`, `weight_bytes`: elements and bytes of all weights;
    - `flops`: floating-point operations, a multiply-add being 2;
    - `uncounted`: operators that `flops` leaves out (loops, unknown shapes);
    - `activation_bytes`: peak of the live tensors in topological order, inputs
      and outputs included, weights not, and nothing computed in place;
    - `operators`: how often each TensorFlow operator occurs;
    - `largest_weights`: the ten largest, with name, shape, dtype and size_bytes;
    - `findings`: recommended changes to the graph, the most severe
      first: rule, severity (high, medium, low), place, cost and fix.

    Open dimensions other than the batch are taken as 32.

    Examples:
        >>> paring.profile(network).parameters == network.count_params()
        True

    Args:
        model: Any model with a SavedModel.
        profile: The profile.

    Raises:
        ModelError: The SavedModel is missing or broken.
        UnsupportedError: Its graph can't be frozen.
    """
    from paring.audit import Subject, audit
    from paring.graphs import graph
    from paring.models.saved_model import SavedModel
    from paring.models.signature import TensorSpec

    saved = SavedModel.open(model)
    signature = saved.signature()
    function = graph.load_function(saved)
    frozen = graph.frozen_graph(function, signature)
    cost = graph.cost(frozen)
    weights = graph.weights(function, frozen)
    findings = audit(Subject(saved.meta_graph, signature, frozen))
    batch_size = max(
        (graph.concrete_shape(spec)[0] for spec in signature.inputs.values() if spec.shape),
        default=1,
    )
    profile.parameters = sum(weight.count for weight in weights)
    profile.flops = cost.flops // batch_size
    profile.activation_bytes = cost.activation_bytes // batch_size
    profile.findings = len(findings)

    def described(specs: dict[str, TensorSpec]) -> dict[str, object]:
        return {name: {"shape": spec.shape, "dtype": spec.dtype} for name, spec in specs.items()}

    content = {
        "source": model.digest or content_digest(model.path),
        "signature": {
            "inputs": described(signature.inputs),
            "outputs": described(signature.outputs),
        },
        "batch_size": batch_size,
        "parameters": profile.parameters,
        "weight_bytes": sum(weight.size_bytes for weight in weights),
        "flops": profile.flops,
        "uncounted": list(cost.uncounted),
        "activation_bytes": profile.activation_bytes,
        "operators": cost.operators,
        "largest_weights": [vars(weight) for weight in weights[:LARGEST]],
        "findings": [vars(finding) for finding in findings],
    }
    profile.file.write_text(json.dumps(content, indent=2) + "\n")
    for item in findings:
        _log.info("%s: %s at %s: %s; %s", item.severity, item.rule, item.place, item.cost, item.fix)
