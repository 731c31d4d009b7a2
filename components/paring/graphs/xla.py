"""Check that XLA compiles a SavedModel's signature, before a TPU is opened for it."""

from collections.abc import Sequence

from paring.artifacts import SERVING_DIR, Servable
from paring.errors import UnsupportedError
from paring.graphs.graph import concrete_shape, load_function
from paring.models.arguments import by_position
from paring.models.saved_model import SavedModel
from paring.models.xla import Refusal, compile_refusals
from paring.system.child_calls import call_in_child

_SHOWN = 3
"""How many refusals an error names."""


def check_before_tpu(models: Sequence[Servable], batch_size: int) -> None:
    """Refuse SavedModels among `models` that XLA can't compile, before a TPU is opened for them.

    They are compiled on the processor, in a process of its own. What is no SavedModel computes
    on the host's processor.

    Raises:
        UnsupportedError, ModelError: See `check_signature_compiles`.
    """
    distinct = {model.path: model for model in models if _has_saved_model(model)}
    call_in_child(_check_all, list(distinct.values()), batch_size)


def _check_all(models: Sequence[Servable], batch_size: int) -> None:
    for model in models:
        check_signature_compiles(model, batch_size)


def _has_saved_model(model: Servable) -> bool:
    return any((model.path / place / "saved_model.pb").is_file() for place in (SERVING_DIR, "."))


def check_signature_compiles(model: Servable, batch_size: int) -> None:
    """Refuse a SavedModel whose signature XLA can't compile for the shapes of one batch.

    Args:
        model: An artifact with a SavedModel.
        batch_size: Examples in one batch; a model's fixed batch stays as it is.

    Raises:
        UnsupportedError: It can't; the message names the operators.
        ModelError: The SavedModel is missing or broken.
    """
    import tensorflow as tf

    saved = SavedModel.open(model)
    inputs = saved.signature().inputs
    text = [name for name, spec in inputs.items() if spec.dtype == "object"]
    if text:
        refused = [
            Refusal(f"input {name}", "Placeholder", "text, which no accelerator holds")
            for name in text
        ]
    else:
        specs = [
            tf.TensorSpec(concrete_shape(spec, batch_size), spec.dtype) for spec in inputs.values()
        ]
        refused = compile_refusals(by_position(load_function(saved), inputs), specs)
    if refused:
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise UnsupportedError(
            f"XLA can't compile {model.path}, which a TPU needs",
            received="; ".join(str(item) for item in refused[:_SHOWN]) + more,
            remedy="move these operators out of the model, as into the preparation of its"
            " inputs, or measure it on a processor or a GPU: --target cpu-server or gpu",
        )
