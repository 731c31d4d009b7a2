"""Types of models, from the user's model to the selected candidate.

They keep TFX's layout, `Format-Serving/`, so that TFX's Pusher, TF Serving and
KFP take them as they are; `Format-Keras/model.keras` beside it is what the
training steps go on from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from paring.artifacts.artifact import Artifact, Highlight
from paring.artifacts.findings import Findings

SERVING_DIR = "Format-Serving"
KERAS_FILE = "Format-Keras/model.keras"
PARTS_DIR = "Format-Parts"
CORE_DIR = "Format-Core"

DEFAULT_SIGNATURE = "serving_default"
"""The signature of a SavedModel that is used where no other one is named."""


@dataclass
class Servable(Artifact):
    """Anything that a runtime can load and run, below `Format-Serving/`.

    Attributes:
        size_bytes: The size of what is served, without the training form.
        note: What a reader of its figures should know, if anything.
        signature: Name of the SavedModel's signature that is optimized, compared and measured.
            A TFLite file has it under the same name; of the other formats, which have no
            signatures, it is that of the SavedModel that they were converted from.
        dropped_signatures: The user's model's other signatures that this one does not have.
        trusted: Whether the user lets code that the model carries run. No fact: it comes
            from the option of the step that opens the model, and is neither written into
            the record nor read from one (docs/adr/0016-trust.md).
        engine_trusted: The same of a TensorRT engine alone, which the pipeline itself built.
    """

    size_bytes: Annotated[int, Highlight("{:,} bytes")] = 0
    note: str | None = None
    signature: str = DEFAULT_SIGNATURE
    dropped_signatures: tuple[str, ...] = ()
    trusted: bool = False
    engine_trusted: bool = False

    @property
    def serving_dir(self) -> Path:
        """The folder of the served form."""
        return self.path / SERVING_DIR

    def drop_signatures(self, names: Iterable[str]) -> None:
        """Add names to `dropped_signatures`."""
        self.dropped_signatures = tuple(sorted({*self.dropped_signatures, *names}))

    @property
    def parts_dir(self) -> Path:
        """The folder of the text work around a numeric core; may not exist.

        See `paring.graphs.numeric_core`.
        """
        return self.path / PARTS_DIR

    def numeric_core(self) -> "Servable":
        """Return the numeric core of a selected model; the artifact itself where it is none."""
        core = self.path / CORE_DIR
        if not core.is_dir():
            return self
        return Servable(
            core,
            signature=self.signature,
            trusted=self.trusted,
            engine_trusted=self.engine_trusted,
        )


@dataclass
class Model(Servable):
    """A TensorFlow model: a SavedModel, and its Keras form where it has one.

    A model that a user hands in may also be a bare SavedModel folder, or a
    `.keras` or `.h5` file; `paring.models.loading` reads all of them.

    Attributes:
        keras: "tf_keras" where the Keras form is there, "none" where not.
        not_trainable: Why a Keras model has no Keras form that training steps take, if so;
            some train on its graph.
        rebuilt_difference: Largest absolute difference of outputs from the Keras 3
            model that this one was rebuilt from; None if it was not.
        source_precision: The dtype policies that the user's model was stored with, such as
            mixed_float16, where that was half precision; this one computes in float32.
            None if it was not.
        trained_on: The strategy, replicas and dtype policy of the step that trained it.
        trained_form: "keras" or "graph", the form that the step trained; None where none did.
        sample_weights: The column of sample weights that it was trained with; "" without.
        preprocess_inputs: What the signature of the user's model takes, where that does text
            work and this one is its dense numeric core; see `parts_dir`.
        uncut: Why a model that does text work was not cut at its numeric core, if so.
    """

    keras: str = ""
    not_trainable: str | None = None
    rebuilt_difference: float | None = None
    source_precision: tuple[str, ...] | None = None
    trained_on: str = ""
    trained_form: str | None = None
    sample_weights: str = ""
    preprocess_inputs: tuple[str, ...] = ()
    uncut: str | None = None

    @property
    def keras_file(self) -> Path:
        """The file of the Keras form; may not exist."""
        return self.path / KERAS_FILE


@dataclass
class PrunedModel(Model):
    """A model with its smallest weights set to zero.

    Attributes:
        sparsity: The share of zeros among the prunable weights, measured.
        layer_sparsities: The same for each layer, as `name share`.
        pattern: What the zeros of every pruned kernel follow, checked: unstructured,
            1x4 or 2:4.
        unpruned_layers: The layers whose weights can't be pruned, and LAYER.KERNEL of those of
            which one kernel can't be.
        not_reached: The layers with fewer zeros than requested, each with the share
            and the reason.
    """

    sparsity: Annotated[float | None, Highlight("{:.0%} zeros")] = None
    layer_sparsities: tuple[str, ...] = ()
    pattern: str = ""
    unpruned_layers: tuple[str, ...] = ()
    not_reached: tuple[str, ...] = ()

    @property
    def sensitivity_file(self) -> Path:
        """Path of the layers' sensitivities in JSON; exists if they set the layers' sparsity."""
        return self.path / "sensitivity.json"


@dataclass
class ChannelPrunedModel(Model):
    """A model with fewer channels in its layers.

    Attributes:
        parameters, source_parameters: Number of weights, now and before.
        flops, source_flops: Floating-point operations for one example (a multiply-add
            is 2), now and before.
        channels_removed: Filters and units that are gone, over all layers.
        unprunable_groups: The layers whose channels had to stay, each group of them with the
            reason.
    """

    parameters: int | None = None
    source_parameters: int | None = None
    flops: int | None = None
    source_flops: int | None = None
    channels_removed: int | None = None
    unprunable_groups: tuple[str, ...] = ()


@dataclass
class ClusteredModel(Model):
    """A model whose kernels share a few values each.

    Attributes:
        distinct_weights: The most distinct values in any clustered kernel, measured.
        sparsity: The share of zeros among the clustered weights, measured.
        unclustered_layers: The layers whose weights can't be clustered, and LAYER.KERNEL of
            those of which one kernel can't be.
        not_reached: The layers with more values than clusters.
    """

    distinct_weights: int | None = None
    sparsity: Annotated[float | None, Highlight("{:.0%} zeros")] = None
    unclustered_layers: tuple[str, ...] = ()
    not_reached: tuple[str, ...] = ()


@dataclass
class DistilledModel(Model):
    """A smaller network, a student, that was trained to predict the source's outputs.

    Attributes:
        student: Which network: a family's name, or the function that made it.
        parameters: Elements of all of its weights.
        source_parameters: Those of the source.
        agreement: Share of the held-out training rows where it has the source's class.
    """

    student: str = ""
    parameters: int = 0
    source_parameters: int = 0
    agreement: Annotated[float | None, Highlight("agreement {:.2%}")] = None


@dataclass
class QuantizedModel(Model):
    """A model trained with fake quantization (QAT); its weights are float.

    Attributes:
        float_layers: The layers that have no quantized form and compute in float, each
            with the reason.
        quantized_tensors: The weights and activations that the SavedModel rounds.
        not_reached: The layers whose weights are not rounded to their own range.
        sparsity: The share of zeros among the kernels whose zeros were preserved,
            measured; None where none were to be.
        distinct_weights: The most distinct values in any kernel whose clusters were
            preserved, measured; None where none were to be.
        not_preserved: The layers with kernels that did not keep all that was requested,
            each with the reason.
    """

    float_layers: tuple[str, ...] = ()
    quantized_tensors: int = 0
    not_reached: tuple[str, ...] = ()
    sparsity: Annotated[float | None, Highlight("{:.0%} zeros")] = None
    distinct_weights: int | None = None
    not_preserved: tuple[str, ...] = ()


@dataclass
class ServingModel(Model):
    """A SavedModel for inference alone, or the source's if no change was faster.

    Attributes:
        applied: Changes to the source's graph; empty where there are none.
        not_applied: Changes that were tried besides, each with the reason.
        precision: What its convolutions and products of matrices compute in; "" where
            it is the source's graph.
        compiled: Whether XLA compiles the signature.
        variables: frozen (weights are constants) or kept; "" where it is the source's
            graph.
        fixed_batch: The batch size of the second signature; None if there is none.
        passed_signatures: The source's other signatures, which compute as they do there.
        operators, source_operators: Nodes of the serving graph without constants, now
            and before; None where the source's can't be frozen.
        speedup: The source's median latency over its own, measured in one run; None
            where it is a copy.
        speedup_low, speedup_high: Its 95% confidence interval.
        difference: From the source's outputs; see
            `paring.converters.savedmodel.serving_trials`. None where it is a copy.
        compared_on: "examples" or "random inputs".
    """

    applied: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()
    precision: str = ""
    compiled: bool = False
    variables: str = ""
    fixed_batch: int | None = None
    passed_signatures: tuple[str, ...] = ()
    operators: int | None = None
    source_operators: int | None = None
    speedup: Annotated[float | None, Highlight("{:.2f} times as fast")] = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    difference: float | None = None
    compared_on: str = ""

    @property
    def trials_file(self) -> Path:
        """Path of all trials with their figures, in JSON."""
        return self.path / "trials.json"


@dataclass
class SplitModel(ServingModel):
    """A SavedModel in stages, each on a device of its own.

    `devices` is also the number of stages; bytes are those of one call of `batch_size`.

    Attributes:
        devices: How many devices it runs on.
        device_type: GPU or CPU.
        batch_size: Examples in the call that was measured.
        largest_stage_bytes: Weights and live tensors of the stage that needs most.
        single_device_bytes: The same of the whole model on one device.
        crossing_bytes: What crosses the cuts between the stages, in all.
    """

    devices: int = 0
    device_type: str = ""
    batch_size: Annotated[int | None, Highlight("batch {}")] = None
    largest_stage_bytes: int | None = None
    single_device_bytes: int | None = None
    crossing_bytes: int | None = None

    @property
    def stages_file(self) -> Path:
        """Path of the stages' operations and memory, in JSON."""
        return self.path / "stages.json"


@dataclass
class SelectedModel(Servable):
    """The chosen candidate, in whichever form it is served.

    Where the source was cut at its numeric core, `Format-Serving/` holds the whole model: a
    SavedModel with the source's signature, or the core's file with the text work beside it,
    and `Format-Core/` the candidate itself.

    Attributes:
        candidate: The id of the candidate.
    """

    candidate: str = ""


@dataclass
class PushedModel(Findings):
    """`push.json`: result of pushing the selected model to its serving destination.

    Attributes:
        destination: The path or URI that holds the versions.
        version: The number of the version that holds the model; 0 if none does.
        made: Whether this push made that version; it may have been the newest already.
        note: Why the model was not pushed, if it was not.
        model_digest: Of the version's files; "" if the model was not pushed.
    """

    destination: str = ""
    version: Annotated[int, Highlight("version {}")] = 0
    made: bool = False
    note: str | None = None
    model_digest: str = ""

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "push.json"
