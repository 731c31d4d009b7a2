"""Where each node of a Dag runs on a cluster, as k8s/runtime.toml says it.

A file names images and pools of machines, and has rules that match nodes by their step
or their id. Rules apply in the file's order, and a later one overrides an earlier one
field by field; so does a later file. docs/kubeflow.md has all fields.

What can't work is refused here, before anything is compiled, with the file, the table
and the key that say so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from paring.catalog import STEPS
from paring.errors import ParameterError, nearest
from paring_pipelines.dag import Dag, Node
from paring_pipelines.placement import Placement, Retry
from paring_pipelines.runtime_file import (
    NONE,
    Pool,
    Rule,
    chips,
    quantity,
    read_runtime,
)

_IMAGES_FOR = {"nvidia": ("gpu", "tensorrt"), "tpu": ("tpu",)}
"""The images that have an accelerator's libraries, by the beginning of its name."""

_CAPABILITIES = {
    "nvidia-t4": "7.5",
    "nvidia-a100": "8.0",
    "nvidia-l4": "8.9",
    "nvidia-h100": "9.0",
}
"""The compute capabilities of known accelerators, as NVIDIA lists them."""

_PARAMETERS = ("beam_options", "shared_dir")
"""The fields that are a step's parameters too."""

_CURRENT = "current"
"""The compute capability of what is built for the GPU that it is built on."""

_RUN_MODELS = ("benchmark", "evaluate", "tune_batch")
"""The steps that run what they are given."""


def place(
    dag: Dag, files: Sequence[Path], *, target: str, image: str | None = None
) -> dict[str, Placement]:
    """Where each node of `dag` runs, by its id.

    Args:
        dag: The wiring.
        files: Such as k8s/runtime.toml; a later one goes over an earlier one.
        target: Whose own rules apply after those for all targets.
        image: The image of every node, in place of those that the files name.

    Raises:
        ParameterError: A file can't be read, names what there is not, or asks for what
            can't work; the message names the file, the table and the key.
    """
    runtime = _merged(files, target)
    for layer in (*runtime.layers, *runtime.others):
        _check_step(dag, layer)
    for layer in runtime.layers:
        _check_node(dag, layer)
    found = {node.id: _Fields(node, runtime, image) for node in dag.nodes.values()}
    for node in dag.nodes.values():
        for layer in runtime.layers:
            if layer.fits(node):
                found[node.id].override(layer)
    _check_bound(dag, found)
    return {node_id: fields.placement() for node_id, fields in found.items()}


@dataclass(frozen=True)
class _Layer:
    """One table of fields, and the nodes that it is about."""

    where: str
    fields: Mapping[str, Any]
    step: str | None = None
    node: str | None = None

    def fits(self, node: Node) -> bool:
        return fnmatchcase(node.step.name, self.step or "*") and fnmatchcase(
            node.id, self.node or "*"
        )


@dataclass(frozen=True)
class _Runtime:
    """What all files say for one target.

    Attributes:
        images: The reference of each.
        pools: Those of all files, by name.
        layers: What is said of this target, in the order in which it applies.
        others: The rules of other targets.
    """

    images: Mapping[str, str]
    pools: Mapping[str, Pool]
    layers: Sequence[_Layer]
    others: Sequence[_Layer]


def _merged(files: Sequence[Path], target: str) -> _Runtime:
    images: dict[str, str] = {}
    pools: dict[str, Pool] = {}
    defaults: list[_Layer] = []
    rules: list[_Layer] = []
    own_defaults: list[_Layer] = []
    own_rules: list[_Layer] = []
    others: list[_Layer] = []
    origins: dict[str, str] = {}
    for path in files:
        content = read_runtime(path)
        images |= {str(name): reference for name, reference in content.images.items()}
        for name, pool in content.pools.items():
            before = pools.get(name, Pool())
            said = {key: getattr(pool, key) for key in pool.model_fields_set}
            pools[name] = before.model_copy(update=said)
            origins[name] = f"{path}: [pools.{name}]"
        defaults.append(_Layer(f"{path}: [defaults]", content.defaults.given()))
        rules += _layers(f"{path}: [[place]]", content.place)
        for named, table in content.targets.items():
            of_target = _layers(f"{path}: [[targets.{named}.place]]", table.place)
            if named == target:
                where = f"{path}: [targets.{target}.defaults]"
                own_defaults.append(_Layer(where, table.defaults.given()))
                own_rules += of_target
            else:
                others += of_target
    for name, pool in pools.items():
        _check_pool(origins[name], pool)
    return _Runtime(images, pools, [*defaults, *own_defaults, *rules, *own_rules], others)


def _layers(where: str, rules: Iterable[Rule]) -> Iterator[_Layer]:
    for number, rule in enumerate(rules, 1):
        yield _Layer(f"{where} {number}", rule.given(), rule.step, rule.node)


def _check_pool(where: str, pool: Pool) -> None:
    """Refuse a pool that says one half of what belongs together."""
    has_accelerator = pool.accelerator != NONE
    if has_accelerator != (pool.resource is not None):
        missing = "resource" if has_accelerator else "accelerator"
        raise ParameterError(
            f"{where}: {missing}: an accelerator and the name of its resource go together",
            received=pool.accelerator if has_accelerator else pool.resource,
            remedy='such as accelerator = "nvidia-l4" with resource = "nvidia.com/gpu"',
        )
    if pool.accelerator.startswith("tpu") != (pool.topology is not None):
        raise ParameterError(
            f"{where}: topology: TPUs have one, and nothing else has",
            received=f"{pool.accelerator}, {pool.topology or 'no topology'}",
            remedy='give 1x1, 2x2 or 2x4 with accelerator = "tpu-v5e" or "tpu-v6e"',
        )


def _check_step(dag: Dag, layer: _Layer) -> None:
    """Refuse a pattern that matches no step.

    It may be one that this Dag does not use, since a file serves many recipes.
    """
    steps = {*STEPS, *(node.step.name for node in dag.nodes.values())}
    if layer.step is not None and not any(fnmatchcase(one, layer.step) for one in steps):
        raise ParameterError(
            f"{layer.where}: step: there is no such step",
            received=layer.step,
            remedy=nearest(layer.step, steps),
        )


def _check_node(dag: Dag, layer: _Layer) -> None:
    """Refuse a pattern of ids that matches no node."""
    if layer.node is not None and not any(map(layer.fits, dag.nodes.values())):
        of = f" of a step {layer.step}" if layer.step else ""
        raise ParameterError(
            f"{layer.where}: node: no node{of} matches",
            received=layer.node,
            remedy=nearest(layer.node, dag.nodes),
        )


class _Fields:
    """The fields of one node, each with the table that it comes from."""

    def __init__(self, node: Node, runtime: _Runtime, image: str | None) -> None:
        self._node = node
        self._runtime = runtime
        self._image = image
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}

    def override(self, layer: _Layer) -> None:
        """Take over all that `layer` says."""
        self._values |= layer.fields
        self._origins |= dict.fromkeys(layer.fields, layer.where)

    @property
    def accelerator(self) -> str:
        """Its type, "none" for none."""
        return str(self._values.get("accelerator", NONE))

    def refusal(self, key: str, text: str, *, received: object, remedy: str) -> ParameterError:
        """An error about what is said of this node under `key`."""
        return ParameterError(
            f"{self._origins[key]}: {key}: {text} (node {self._node.id})",
            received=received,
            remedy=remedy,
        )

    def placement(self) -> Placement:
        """What the fields come to, checked.

        Raises:
            ParameterError: They name what there is not, or don't fit each other.
        """
        values = self._values
        pool = self._pool()
        self._check_accelerator(pool)
        self._check_limits()
        plain = ("cpu", "cpu_limit", "memory", "memory_limit", "shm", "timeout_seconds", "cache")
        has_accelerator = self.accelerator != NONE
        return Placement(
            **{name: values[name] for name in plain if name in values},
            image=self._reference(),
            accelerator=self.accelerator,
            resource=pool.resource if has_accelerator else None,
            accelerator_count=self._count(pool) if has_accelerator else 1,
            labels=pool.labels,
            tolerations=tuple(pool.tolerations),
            retry=self._retry(),
            parameters=self._parameters(),
        )

    def _reference(self) -> str | None:
        name = self._values.get("image")
        if self._image is not None or name is None:
            return self._image
        if name not in self._runtime.images:
            raise self.refusal(
                "image",
                "[images] has no such image",
                received=name,
                remedy=f"add {name} = REFERENCE to [images], or give --image",
            )
        return self._runtime.images[name]

    def _pool(self) -> Pool:
        name = self._values.get("pool", NONE)
        if name == NONE:
            return Pool()
        if name not in self._runtime.pools:
            raise self.refusal(
                "pool",
                "there is no such pool",
                received=name,
                remedy=nearest(name, [NONE, *self._runtime.pools]),
            )
        return self._runtime.pools[name]

    def _check_accelerator(self, pool: Pool) -> None:
        wanted = self.accelerator
        if wanted == NONE:
            return
        if pool.accelerator != wanted:
            fitting = [
                name for name, one in self._runtime.pools.items() if one.accelerator == wanted
            ]
            raise self.refusal(
                "accelerator",
                f"the node's pool {self._values.get('pool', NONE)} has {pool.accelerator}",
                received=wanted,
                remedy=f"give a pool with it: {', '.join(fitting) or 'there is none yet'}",
            )
        images = _IMAGES_FOR[wanted.partition("-")[0]]
        if self._values.get("image") not in images:
            raise self.refusal(
                "accelerator",
                f"image {self._values.get('image', NONE)} has no libraries for it",
                received=wanted,
                remedy=f"give image = {' or '.join(images)}",
            )

    def _count(self, pool: Pool) -> int:
        given: int | None = self._values.get("accelerator_count")
        if pool.topology is None:
            return given or 1
        whole = chips(pool.topology)
        if given not in (None, whole):
            raise self.refusal(
                "accelerator_count",
                f"a task takes all {whole} chips of the topology {pool.topology}",
                received=given,
                remedy="leave it out, or take a pool of another topology",
            )
        return whole

    def _check_limits(self) -> None:
        for small, large in (
            ("cpu", "cpu_limit"),
            ("memory", "memory_limit"),
            # What lies in /dev/shm counts as the container's memory.
            ("shm", "memory_limit"),
        ):
            first, second = self._values.get(small), self._values.get(large)
            if first and second and quantity(first) > quantity(second):
                raise self.refusal(
                    small,
                    f"is more than {large}, which is {second}",
                    received=first,
                    remedy=f"lower it, or raise {large}",
                )

    def _parameters(self) -> dict[str, str]:
        given = {key: self._values[key] for key in _PARAMETERS if key in self._values}
        step = self._node.step
        for key in given:
            if key not in step.parameters:
                having = [one.name for one in STEPS.values() if key in one.parameters]
                raise self.refusal(
                    key,
                    f"step {step.name} has no such parameter",
                    received=given[key],
                    remedy=f"give it in a [[place]] of step = {' or '.join(having)}",
                )
        self._check_workers(given)
        return given

    def _check_workers(self, given: Mapping[str, str]) -> None:
        """Refuse what the step would refuse, after all that comes before it has run."""
        own = {key: str(self._node.parameters.get(key, "")) for key in _PARAMETERS}
        beam_options, shared_dir = ({**own, **given}[key] for key in _PARAMETERS)
        if not (beam_options or shared_dir):
            return
        # Imported late: this takes Beam, which takes seconds to load.
        from paring.beam_options import read_beam_options

        try:
            read_beam_options(beam_options, shared_dir)
        except ParameterError as error:
            if not given:
                raise
            key, _, text = error.what.partition(": ")
            raise self.refusal(
                key if key in given else next(iter(given)),
                text,
                received=error.received,
                remedy=error.remedy,
            ) from error

    def _retry(self) -> Retry | None:
        names = {
            "backoff_seconds": "backoff_seconds",
            "backoff_factor": "factor",
            "backoff_max_seconds": "max_seconds",
        }
        given = {names[key]: value for key, value in self._values.items() if key in names}
        count = self._values.get("retries", 0)
        return Retry(count, **given) if count else None


def _check_bound(dag: Dag, found: Mapping[str, _Fields]) -> None:
    """Refuse to run on one kind of hardware what was built for another.

    What is built for a stated compute capability may be built anywhere.
    """
    for node in dag.nodes.values():
        if node.step.name not in _RUN_MODELS:
            continue
        for edge in node.edges():
            if not dag.type_of(edge).bound_to_hardware or edge.node in dag.sources:
                continue
            there, here = found[edge.node].accelerator, found[node.id].accelerator
            stated = dag.nodes[edge.node].parameters.get("compute_capability", _CURRENT)
            if stated == _CURRENT:
                wrong, built = there != here, f"on {there}"
                remedy = "give both nodes the same accelerator"
            else:
                # Of one that is not known here TensorRT's runtime says whether it fits.
                fits = _CAPABILITIES.get(here, stated) == stated
                wrong = there != NONE if here == NONE else not fits
                built = f"for compute capability {stated}"
                remedy = f"run it on a GPU of compute capability {stated}, or build it for another"
            if wrong:
                raise found[node.id if here != NONE else edge.node].refusal(
                    "accelerator",
                    f"{edge.node} builds a {dag.type_of(edge).__name__} {built},"
                    f" and {node.id} runs it on {here}, where it does not load",
                    received=here if here != NONE else there,
                    remedy=remedy,
                )
