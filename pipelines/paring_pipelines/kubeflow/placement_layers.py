"""Layers of fields that runtime files hold, in the order in which they apply."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from paring.catalog import STEPS
from paring.errors import ParameterError, nearest
from paring_pipelines.kubeflow.placement_file import Pool, Rule, read_runtime
from paring_pipelines.kubeflow.placement_values import NONE
from paring_pipelines.pipeline.dag import Dag, Node

_NEEDS = {
    "accelerator_count": "accelerator",
    **dict.fromkeys(("backoff_seconds", "backoff_factor", "backoff_max_seconds"), "retries"),
}
"""The field without which another one has no effect."""

OFF = (None, 0, NONE)
"""The values of a field that say the same as leaving it out."""


@dataclass(frozen=True)
class PlacementLayer:
    """One table of fields, and the nodes that it is about.

    Attributes:
        where: The file and the table, for errors.
        fields: The fields that the table holds.
        step: Pattern of the steps; None for all.
        node: Pattern of the ids; None for all.
    """

    where: str
    fields: Mapping[str, Any]
    step: str | None = None
    node: str | None = None

    def fits(self, node: Node) -> bool:
        """Return whether the fields are for `node`."""
        step, pattern = ("*" if item is None else item for item in (self.step, self.node))
        return fnmatchcase(node.step.name, step) and fnmatchcase(node.id, pattern)


@dataclass(frozen=True)
class PlacementRules:
    """Images, pools and rules of all files for one target.

    Attributes:
        images: The reference of each.
        pools: Those of all files, by name.
        layers: What is said of this target, in the order in which it applies.
        others: The rules of other targets.
    """

    images: Mapping[str, str]
    pools: Mapping[str, Pool]
    layers: Sequence[PlacementLayer]
    others: Sequence[PlacementLayer]


def merge_files(files: Sequence[Path], target: str) -> PlacementRules:
    """Return what all files say for one target.

    Args:
        files: Such as k8s/runtime.toml; a later one goes over an earlier one.
        target: Whose own rules apply after those for all targets.

    Raises:
        ParameterError: A file can't be read, or holds what it can't.
    """
    images: dict[str, str] = {}
    pools: dict[str, Pool] = {}
    defaults: list[PlacementLayer] = []
    rules: list[PlacementLayer] = []
    own_defaults: list[PlacementLayer] = []
    own_rules: list[PlacementLayer] = []
    others: list[PlacementLayer] = []
    origins: dict[str, str] = {}
    for path in files:
        content = read_runtime(path)
        images |= {str(name): reference for name, reference in content.images.items()}
        for name, pool in content.pools.items():
            before = pools.get(name, Pool())
            said = {key: getattr(pool, key) for key in pool.model_fields_set}
            pools[name] = before.model_copy(update=said)
            origins[name] = f"{path}: [pools.{name}]"
        defaults.append(PlacementLayer(f"{path}: [defaults]", content.defaults.given()))
        rules += _layers(f"{path}: [[place]]", content.place)
        for named, table in content.targets.items():
            of_target = _layers(f"{path}: [[targets.{named}.place]]", table.place)
            if named == target:
                where = f"{path}: [targets.{target}.defaults]"
                own_defaults.append(PlacementLayer(where, table.defaults.given()))
                own_rules += of_target
            else:
                others += of_target
    for name, pool in pools.items():
        _check_pool(origins[name], pool)
    return PlacementRules(images, pools, [*defaults, *own_defaults, *rules, *own_rules], others)


def _layers(where: str, rules: Iterable[Rule]) -> Iterator[PlacementLayer]:
    for number, rule in enumerate(rules, 1):
        yield PlacementLayer(f"{where} {number}", rule.given(), rule.step, rule.node)


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


def check_step(dag: Dag, layer: PlacementLayer) -> None:
    """Refuse a pattern that matches no step.

    It may be one that this Dag does not use, since a file serves many recipes.

    Raises:
        ParameterError: There is no such step; the message names the table.
    """
    steps = {*STEPS, *(node.step.name for node in dag.nodes.values())}
    if layer.step is not None and not any(fnmatchcase(item, layer.step) for item in steps):
        raise ParameterError(
            f"{layer.where}: step: there is no such step",
            received=layer.step,
            remedy=nearest(layer.step, steps),
        )


def check_node(dag: Dag, layer: PlacementLayer) -> None:
    """Refuse a pattern of ids that matches no node.

    Raises:
        ParameterError: There is no such node; the message names the table.
    """
    if layer.node is not None and not any(map(layer.fits, dag.nodes.values())):
        of = f" of a step {layer.step}" if layer.step else ""
        raise ParameterError(
            f"{layer.where}: node: no node{of} matches",
            received=layer.node,
            remedy=nearest(layer.node, dag.nodes),
        )


def check_effects(dag: Dag, layers: Sequence[PlacementLayer]) -> None:
    """Refuse fields that had no effect on any of their nodes when their layer applied.

    A later layer may give what a field needs, and may take it back without making the
    field an error: `retries = 0` is enough to turn off all about retries.

    Raises:
        ParameterError: There is such a field; the message names its table.
    """
    for position, layer in enumerate(layers):
        nodes = [node for node in dag.nodes.values() if layer.fits(node)]
        for key, needed in _NEEDS.items():
            if key in layer.fields and nodes:
                if any(_is_given(needed, node, layers, position) for node in nodes):
                    continue
                raise ParameterError(
                    f"{layer.where}: {key}: has no effect on nodes without {needed}",
                    received=layer.fields[key],
                    remedy=f"give {needed} as well, or leave it out",
                )


def _is_given(key: str, node: Node, layers: Sequence[PlacementLayer], position: int) -> bool:
    """Return whether `key` stands, and is not off, at a layer's position or at a later one."""
    stood, later = (
        [item.fields[key] for item in those if key in item.fields and item.fits(node)]
        for those in (layers[: position + 1], layers[position + 1 :])
    )
    return any(value not in OFF for value in (*stood[-1:], *later))
