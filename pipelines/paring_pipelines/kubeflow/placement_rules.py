"""Placement of each node of a Dag on a cluster, by files such as k8s/runtime.toml.

A file names images and pools of machines, and has rules that match nodes by their step
or their id. Rules apply in the file's order, and a later one overrides an earlier one
field by field; so does a later file. Of environment variables, labels, annotations, the
security context and volumes, each key is a field of its own. docs/kubeflow.md has all
fields.

What can't work is refused here, before anything is compiled, with the file, the table
and the key that say so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from paring.catalog import STEPS
from paring.errors import ParameterError, nearest
from paring_pipelines.kubeflow.formats import quantity
from paring_pipelines.kubeflow.placement import EnvReference, Placement, Retry
from paring_pipelines.kubeflow.placement_file import (
    NONE,
    Pool,
    Rule,
    SecurityContext,
    Volume,
    chips,
    read_runtime,
)
from paring_pipelines.pipeline.dag import Dag, Node

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

_PLAIN = (
    *("cpu", "cpu_limit", "memory", "memory_limit", "shm", "timeout_seconds", "cache"),
    *("image_pull_policy", "annotations", "volumes", "security_context"),
)
"""The fields that are attributes of a placement as they are."""

_MERGED = ("labels", "annotations", "volumes")
"""The fields of which a later rule overrides single keys."""

_ENVIRONMENT = ("env", "env_from_secret", "env_from_config_map")
"""The fields that give environment variables; a later rule overrides single ones."""

_KUBEFLOWS_VOLUMES = frozenset(
    f"{name}-scratch" for name in ("gcs", "s3", "minio", "dot-local", "dot-cache", "dot-config")
) | {"kfp-launcher", "ca-bundle", "var-run-argo", "tmp-dir-argo"}
"""Names of the volumes that Kubeflow's and Argo's own pods have."""

_MOST_ANNOTATIONS = 256 * 1024

_NEEDS = {
    "accelerator_count": "accelerator",
    **dict.fromkeys(("backoff_seconds", "backoff_factor", "backoff_max_seconds"), "retries"),
}
"""The field without which another one has no effect."""

_DEFAULT_IMAGE = "cpu"
"""The entry of [images] that nodes run on where no rule names one."""

_CURRENT = "current"
"""The compute capability of what is built for the GPU that it is built on."""

_RUN_MODELS = ("benchmark", "evaluate", "tune_batch")
"""The steps that run what they are given."""


def place(
    dag: Dag, files: Sequence[Path], *, target: str, image: str | None = None
) -> dict[str, Placement]:
    """Return the placement of each node of `dag`, by its id.

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
    for layer in runtime.layers:
        _check_effect(layer, [found[node.id] for node in dag.nodes.values() if layer.fits(node)])
    _check_bound(dag, found)
    _check_alone(dag, found)
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
    """Images, pools and rules of all files for one target.

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

    if pool.machine_accelerators is not None and (not has_accelerator or pool.topology):
        raise ParameterError(
            f"{where}: machine_accelerators: "
            + ("the topology says it" if pool.topology else "its machines have no accelerator"),
            received=pool.machine_accelerators,
            remedy="leave it out" + ("" if pool.topology else ", or give accelerator"),
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


def _check_effect(layer: _Layer, nodes: Sequence["_Fields"]) -> None:
    """Refuse fields without effect on any of the nodes that they are about."""
    for key, needed in _NEEDS.items():
        if key in layer.fields and nodes and not any(node.has(needed) for node in nodes):
            raise ParameterError(
                f"{layer.where}: {key}: has no effect on nodes without {needed}",
                received=layer.fields[key],
                remedy=f"give {needed} as well, or leave it out",
            )


class _Fields:
    """The fields of one node, each with the table that it comes from."""

    def __init__(self, node: Node, runtime: _Runtime, image: str | None) -> None:
        self._node = node
        self._runtime = runtime
        self._image = image
        self._values: dict[str, Any] = {}
        if _DEFAULT_IMAGE in runtime.images:
            self._values["image"] = _DEFAULT_IMAGE
        self._origins: dict[str, str] = {}
        self._env: dict[str, str | EnvReference] = {}

    def override(self, layer: _Layer) -> None:
        """Take over all that `layer` says."""
        for key, value in layer.fields.items():
            if key in _ENVIRONMENT:
                self._env |= _variables(key, value)
            elif key in _MERGED:
                self._values[key] = self._values.get(key, {}) | value
            elif key == "security_context":
                before = self._values.get(key, SecurityContext())
                said = {name: getattr(value, name) for name in value.model_fields_set}
                self._values[key] = before.model_copy(update=said)
            else:
                self._values[key] = value
        self._origins |= dict.fromkeys(layer.fields, layer.where)

    @property
    def node_id(self) -> str:
        """Return the id of the node."""
        return self._node.id

    @property
    def accelerator(self) -> str:
        """Its type, "none" for none."""
        return str(self._values.get("accelerator", NONE))

    def has(self, key: str) -> bool:
        """Return whether a field is given, and is neither 0 nor "none"."""
        return self._values.get(key) not in (None, 0, NONE)

    def refusal(self, key: str, text: str, *, received: object, remedy: str) -> ParameterError:
        """Return an error about what is said of this node under `key`."""
        return ParameterError(
            f"{self._origins[key]}: {key}: {text} (node {self._node.id})",
            received=received,
            remedy=remedy,
        )

    def placement(self) -> Placement:
        """Return the placement that the fields describe, checked.

        Raises:
            ParameterError: They name what there is not, or don't fit each other.
        """
        values = self._values
        pool = self.pool()
        self._check_accelerator(pool)
        self._check_limits()
        self._check_volumes()
        self._check_user()
        self._check_annotations()
        has_accelerator = self.accelerator != NONE
        return Placement(
            **{name: values[name] for name in _PLAIN if name in values},
            image=self._reference(),
            accelerator=self.accelerator,
            resource=pool.resource if has_accelerator else None,
            accelerator_count=self.accelerators(pool) if has_accelerator else 1,
            labels=pool.labels,
            tolerations=tuple(pool.tolerations),
            retry=self._retry(),
            parameters=self._parameters(),
            env=self._env,
            image_pull_secrets=tuple(values.get("image_pull_secrets", ())),
            pod_labels=values.get("labels", {}),
            store_identity=tuple(values.get("store_identity", ())),
        )

    def _reference(self) -> str | None:
        name = self._values.get("image")
        if self._image is not None:
            return self._image
        if name is None:
            return None
        if name not in self._runtime.images:
            raise self.refusal(
                "image",
                "[images] has no such image",
                received=name,
                remedy=f"add {name} = REFERENCE to [images], or give --image",
            )
        return self._runtime.images[name]

    def pool(self) -> Pool:
        """Return the pool of the node; an empty one for any machine.

        Raises:
            ParameterError: There is no pool of that name.
        """
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

    def cores(self) -> float:
        """Return the requested cores; like Kubernetes, the limit where there is no request."""
        request = self._values.get("cpu") or self._values.get("cpu_limit")
        return quantity(request) if request else 0.0

    def cores_key(self) -> str:
        """Return the field that `cores` comes from, else the one that chose the pool."""
        return next((key for key in ("cpu", "cpu_limit") if self._values.get(key)), "pool")

    def pool_name(self) -> str:
        """Return the name of the pool; "none" for any machine."""
        return str(self._values.get("pool", NONE))

    def accelerators(self, pool: Pool) -> int:
        """Return the number of accelerators of `pool` that it requests.

        Raises:
            ParameterError: Fewer than all chips of a TPU's topology are requested.
        """
        if self.accelerator == NONE:
            return 0
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

    def _check_volumes(self) -> None:
        """Refuse volumes that share a name or a path with another volume of the pod."""
        volumes: Mapping[str, Volume] = self._values.get("volumes", {})
        at = {"shm": "/dev/shm"} if self._values.get("shm") else {}
        for path, volume in volumes.items():
            name = volume.name
            if name in _KUBEFLOWS_VOLUMES or name in at:
                where = f"the one at {at[name]}" if name in at else "one of Kubeflow's own"
                raise self.refusal(
                    "volumes",
                    f"the volume at {path} has the same name as {where}, since Kubeflow names it"
                    " for what it holds",
                    received=name,
                    remedy="mount each claim, Secret and ConfigMap once, under names that differ",
                )
            at[name] = path
        if "/dev/shm" in volumes and self._values.get("shm"):
            raise self.refusal(
                "volumes",
                "shm is mounted at this path",
                received="/dev/shm",
                remedy="leave shm out, or mount the volume elsewhere",
            )

    def _check_user(self) -> None:
        user: SecurityContext = self._values.get("security_context", SecurityContext())
        if user.run_as_non_root and user.run_as_user == 0:
            raise self.refusal(
                "security_context",
                "run_as_non_root is true, and user 0 is root",
                received=0,
                remedy="give run_as_user = 65532, which is the images' own",
            )

    def _check_annotations(self) -> None:
        given: Mapping[str, str] = self._values.get("annotations", {})
        size = sum(len(f"{key}{value}".encode()) for key, value in given.items())
        if size > _MOST_ANNOTATIONS:
            raise self.refusal(
                "annotations",
                f"Kubernetes takes at most {_MOST_ANNOTATIONS} bytes of them for a pod",
                received=f"{size} bytes",
                remedy="shorten them, or mount the text from a ConfigMap with volumes",
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
        from paring.evaluation.beam_options import read_beam_options

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


def _variables(key: str, value: Any) -> dict[str, str | EnvReference]:
    """Return the environment variables of one field of a table."""
    if key == "env":
        return dict(value)
    kind: Literal["secret", "config_map"] = "secret" if key == "env_from_secret" else "config_map"
    return {
        variable: EnvReference(kind, source.name, name, source.optional)
        for source in value
        for name, variable in source.keys.items()
    }


def _check_alone(dag: Dag, found: Mapping[str, _Fields]) -> None:
    """Refuse two tasks that measure on one machine, and tasks larger than a machine.

    Only pools that state the size of their machines are checked. A task that measures must
    not fit beside itself either, since there may be another run.
    """
    measuring: dict[str, list[_Fields]] = {}
    for node in dag.nodes.values():
        fields = found[node.id]
        pool = fields.pool()
        machine = quantity(pool.machine_cpu) if pool.machine_cpu else None
        if machine is not None and fields.cores() > machine:
            raise fields.refusal(
                fields.cores_key(),
                f"a machine of pool {fields.pool_name()} has {pool.machine_cpu} cores, so the"
                " task would wait for ever",
                received=f"{fields.cores():g} cores",
                remedy="request less, or place it on another pool",
            )
        whole = _machine_accelerators(pool)
        if whole is not None and fields.accelerators(pool) > whole:
            raise fields.refusal(
                "accelerator",
                f"a machine of pool {fields.pool_name()} has {whole}, so the task would wait"
                " for ever",
                received=f"{fields.accelerators(pool)} accelerators",
                remedy="request less, or place it on another pool",
            )
        if node.step.measures and (machine is not None or whole is not None):
            measuring.setdefault(fields.pool_name(), []).append(fields)
    for name, those in measuring.items():
        for position, one in enumerate(those):
            for other in those[position:]:
                _check_pair(name, one, other)


def _check_pair(name: str, one: _Fields, other: _Fields) -> None:
    """Refuse two tasks that measure and fit on one machine of the pool `name`."""
    pool = one.pool()
    whole = _machine_accelerators(pool)
    if whole is not None and one.accelerators(pool) + other.accelerators(pool) > whole:
        return
    small, large = sorted((one, other), key=lambda fields: fields.cores())
    beside = "another run's" if one is other else large.node_id
    if pool.machine_cpu is None:
        raise small.refusal(
            "accelerator_count" if small.has("accelerator_count") else "pool",
            f"this task and {beside} both measure, and both fit on one machine of pool {name}"
            f" ({whole} accelerators), where they would distort each other's figures",
            received=f"{one.accelerators(pool)} and {other.accelerators(pool)} accelerators",
            remedy=f"request more than {(whole or 0) // 2} accelerators, or give the pool"
            " machine_cpu and the task more than half of it",
        )
    if one.cores() + other.cores() <= quantity(pool.machine_cpu):
        raise small.refusal(
            small.cores_key(),
            f"this task and {beside} both measure, and both fit on one machine of pool {name}"
            f" ({pool.machine_cpu} cores), where they would distort each other's figures",
            received=f"{small.cores():g} cores",
            remedy=f"request more than {quantity(pool.machine_cpu) / 2:g} cores",
        )


def _machine_accelerators(pool: Pool) -> int | None:
    return chips(pool.topology) if pool.topology else pool.machine_accelerators


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
