"""Fields of one node, from the layers that fit it, and their checks."""

import posixpath
from collections.abc import Mapping
from typing import Any, Literal

from paring.catalog import STEPS
from paring.errors import ParameterError, nearest
from paring.storage import is_remote, local_path
from paring.system.accelerators import VARIABLE
from paring_pipelines.kubeflow.formats import quantity
from paring_pipelines.kubeflow.placement import EnvReference, Placement, Retry
from paring_pipelines.kubeflow.placement_file import Pool, SecurityContext, Volume
from paring_pipelines.kubeflow.placement_layers import OFF, PlacementLayer, PlacementRules
from paring_pipelines.kubeflow.placement_values import NONE, chips
from paring_pipelines.pipeline.dag import Node

_IMAGES_FOR = {"nvidia": ("gpu", "tensorrt"), "tpu": ("tpu",)}
"""The images that have an accelerator's libraries, by the beginning of its name."""

_PARAMETERS = ("beam_options", "shared_dir")
"""The fields that are a step's parameters too."""

_FOLDERS = {"push": ("destination", "--push-to"), "evaluate": ("shared_dir", "--shared-dir")}
"""The parameter of each step that names a folder to write to, and its option."""

_PLAIN = (
    *("cpu", "cpu_limit", "memory", "memory_limit", "shm", "timeout_seconds", "cache"),
    *("image_pull_policy", "annotations", "volumes", "security_context"),
)
"""The fields that are attributes of a placement as they are."""

_MERGED = ("labels", "annotations", "volumes")
"""The fields of which a later rule overrides single keys."""

_ENVIRONMENT = ("env", "env_from_secret", "env_from_config_map")
"""The fields that give environment variables.

A variable of a later rule goes over one of the same name, whichever field gave that.
"""

_KUBEFLOWS_VOLUMES = frozenset(
    f"{name}-scratch" for name in ("gcs", "s3", "minio", "dot-local", "dot-cache", "dot-config")
) | {"kfp-launcher", "ca-bundle", "var-run-argo", "tmp-dir-argo"}
"""Names of the volumes that Kubeflow's and Argo's own pods have."""

_MOST_ANNOTATIONS = 256 * 1024

_LONGEST = "backoff_max_seconds"

_DEFAULT_IMAGE = "cpu"
"""The entry of [images] that nodes run on where no rule names one."""


class NodeFields:
    """The fields of one node, each with the table that it comes from.

    Args:
        node: The node.
        runtime: What is said of all nodes.
        image: The image of every node, in place of those that the files name.
        checked: Beam's options, shared folders, and whether on a TPU, that were found valid, by
            any node: those of all evaluations are mostly the same, and what is to be known of
            them is reported once.
    """

    def __init__(
        self,
        node: Node,
        runtime: PlacementRules,
        image: str | None,
        checked: set[tuple[str, str, bool]],
    ) -> None:
        self._node = node
        self._checked = checked
        self._runtime = runtime
        self._image = image
        self._values: dict[str, Any] = {}
        if _DEFAULT_IMAGE in runtime.images:
            self._values["image"] = _DEFAULT_IMAGE
        self._origins: dict[str, str] = {}
        self._env: list[tuple[str, Mapping[str, str | EnvReference]]] = []

    def override(self, layer: PlacementLayer) -> None:
        """Take over all that `layer` says."""
        for key, value in layer.fields.items():
            if key in _ENVIRONMENT:
                if key != "env":
                    # A list goes over the whole of an earlier one.
                    self._env = [item for item in self._env if item[0] != key]
                self._env.append((key, _variables(key, value)))
            elif key in _MERGED:
                self._values[key] = self._values.get(key, {}) | value
            elif key == "security_context":
                before = self._values.get(key, SecurityContext())
                said = {name: getattr(value, name) for name in value.model_fields_set}
                self._values[key] = before.model_copy(update=said)
            else:
                self._values[key] = value
            self._origins.pop(key, None)
        # In the order in which they were given.
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
        return self._values.get(key) not in OFF

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
        parameters = self._parameters()
        self._check_folder(parameters)
        has_accelerator = self.accelerator != NONE
        env: dict[str, str | EnvReference] = {VARIABLE: self.accelerator} if has_accelerator else {}
        for _, given in self._env:
            env |= given
        return Placement(
            **{name: values[name] for name in _PLAIN if name in values},
            image=self._reference(),
            accelerator=self.accelerator,
            resource=pool.resource if has_accelerator else None,
            accelerator_count=self.accelerators(pool) if has_accelerator else 1,
            labels=pool.labels,
            tolerations=tuple(pool.tolerations),
            retry=self._retry(),
            parameters=parameters,
            env=env,
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
                name for name, item in self._runtime.pools.items() if item.accelerator == wanted
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
                having = [item.name for item in STEPS.values() if key in item.parameters]
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
        on_tpu = self.accelerator.startswith("tpu-")
        item = (beam_options, shared_dir, on_tpu)
        if not (beam_options or shared_dir) or item in self._checked:
            return
        # Imported late: this takes Beam, which takes seconds to load.
        from paring.evaluation.beam_options import read_beam_options

        try:
            options = read_beam_options(beam_options, shared_dir)
            if on_tpu:
                options.check_tpu()
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
        self._checked.add(item)

    def _check_folder(self, given: Mapping[str, str]) -> None:
        """Refuse a folder that is written to and lies in the container, which is deleted."""
        step = self._node.step.name
        if step not in _FOLDERS:
            return
        key, option = _FOLDERS[step]
        parameters = {**self._node.parameters, **given}
        uri = str(parameters.get(key, ""))
        # Beam's workers are in the pod itself then.
        within = key == "shared_dir" and "LOOPBACK" in str(parameters.get("beam_options", ""))
        if not uri or is_remote(uri) or within:
            return
        folder = posixpath.normpath(str(local_path(uri)))
        volumes: Mapping[str, Volume] = self._values.get("volumes", {})
        above = [path for path in volumes if f"{folder}/".startswith(f"{path}/")]
        mounted = max(above, key=len, default="")
        if mounted and volumes[mounted].claim is not None:
            return
        path = folder if folder.startswith("/") else f"/mnt/{posixpath.basename(folder)}"
        if not folder.startswith("/"):
            text = "must be in a store, or an absolute path that a volume is mounted at"
        elif mounted:
            text = f"the volume at {mounted} is a Secret or ConfigMap, which no pod can write to"
        else:
            text = "no volume is mounted there, so what is written would be lost with the pod"
        where = self._origins[key] + f": {key}" if key in given else option
        raise ParameterError(
            f"{where}: {text} (node {self._node.id})",
            received=uri,
            remedy=f"give s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, or {path} with a --runtime"
            f' file that has\n\n[[place]]\nstep = "{step}"\n'
            f'volumes = {{ "{mounted or path}" = {{ claim = "CLAIM" }} }}',
        )

    def _retry(self) -> Retry | None:
        names = {
            "backoff_seconds": "backoff_seconds",
            "backoff_factor": "factor",
            _LONGEST: "max_seconds",
        }
        given = {names[key]: value for key, value in self._values.items() if key in names}
        count = self._values.get("retries", 0)
        if not count:
            return None
        retry = Retry(count, **given)
        if retry.backoff_seconds >= retry.max_seconds:
            last = [key for key in self._origins if key in ("backoff_seconds", _LONGEST)][-1]
            raise self.refusal(
                last,
                f"the wait of {retry.backoff_seconds} s before the first retry ends no earlier"
                f" than all retries, {retry.max_seconds} s after the task's start",
                received=self._values[last],
                remedy=f"give less for backoff_seconds, or more for {_LONGEST}, at most 3600",
            )
        return retry


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
