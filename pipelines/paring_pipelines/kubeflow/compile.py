"""The Dag as a package for Kubeflow Pipelines, and steps as files of components."""

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kfp import compiler, dsl, kubernetes
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from paring.adapters.kfp import SOURCE_DIGEST, component, kfp_type, member_inputs
from paring.catalog import STEPS
from paring.errors import OutputError, ParameterError
from paring.storage import written_beside
from paring.system.step_limits import TIME_VARIABLE
from paring_pipelines.kubeflow.placement import STORE_IDENTITY, Placement
from paring_pipelines.kubeflow.task_graph import display_name, task_name
from paring_pipelines.pipeline.dag import Dag, Edge, Node

# Of a pod's time, what its step has not.
_LEAST_MARGIN_SECONDS, _MOST_MARGIN_SECONDS = 60, 600


def compile_dag(
    dag: Dag,
    out: Path,
    *,
    image: str,
    placements: Mapping[str, Placement] | None = None,
    namespace: str = "",
    display_names: bool = True,
) -> None:
    """Write `dag` to `out`, a pipeline spec of schema 2.1.0 as YAML.

    The pipeline takes the URI of each source, `model_uri` for the source
    `model`, and `source_digest`, any text that names the sources' content: with
    another one, every task misses Kubeflow's cache, which knows URIs but not
    what lies there. The same arguments give the same bytes.

    Each node is a task named for its id, with its parameters as constants, and
    is cached unless its placement says otherwise, or its step has side effects. A failure
    that a node records in its outputs counts as a success there; submit with caching off to try
    what failed again. What placements ask of Kubernetes stands in a second YAML document.

    Args:
        dag: The wiring.
        out: The file; what was there stays if anything goes wrong.
        image: The image of every task whose placement names none.
        placements: Where nodes run, by their id; see
            `paring_pipelines.kubeflow.placement_rules.place`.
        namespace: Where one is given, the file holds Kubeflow's resources Pipeline and
            PipelineVersion for it instead. A version can't be changed once it is there,
            so the digest of its content is part of its name.
        display_names: Whether tasks have names for people beside their own. Backends
            before 2.6 look tasks up by them and then find none.

    Raises:
        ParameterError: A node takes one artifact under two inputs, or the names of two
            nodes are one to Kubeflow.
        OutputError: The file can't be written.
    """
    _refuse_repeated_artifacts(dag)
    _refuse_equal_names(dag)
    function = _pipeline_function(dag, image, placements or {}, display_names=display_names)
    package = dsl.pipeline(name=dag.name)(function)
    _write(package, out, _resources(package, namespace) if namespace else {})


def write_components(folder: Path, *, image: str) -> list[Path]:
    """Write each step that can be one to `folder`, as NAME.yaml for anybody's pipelines.

    A step with a family of inputs can't: its component has an input for each member,
    and who the members are is not known before there is a pipeline.

    Args:
        folder: Gets the files; what else is there stays.
        image: The image that each names.

    Returns:
        The files, in the order of the catalog.

    Raises:
        OutputError: A file can't be written.
    """
    files: list[Path] = []
    for name, step in STEPS.items():
        if any(spec.family for spec in step.inputs.values()):
            continue
        files.append(folder / f"{name}.yaml")
        _write(component(step, image=image), files[-1])
    return files


def _refuse_repeated_artifacts(dag: Dag) -> None:
    """Refuse a Dag that Kubeflow's driver can't record.

    ML Metadata allows one input event for an artifact and an execution, whatever the
    inputs' names. Nodes with one identity count as one: Kubeflow's cache answers for the
    second with the artifacts of the first.
    """
    identities = _identities(dag)
    for node in dag.nodes.values():
        input_of: dict[tuple[str, str], str] = {}
        for name, edge in _edges(node).items():
            artifact = (identities.get(edge.node, edge.node), edge.output)
            if artifact in input_of:
                raise ParameterError(
                    f"{node.id}: inputs {input_of[artifact]} and {name} take the same artifact,"
                    " and Kubeflow's metadata store allows an artifact once for each task",
                    received=f"{edge.output} of {edge.node}"
                    if edge.output
                    else f"the source {edge.node}",
                    remedy="leave out the optional input, or the recipe that repeats another",
                )
            input_of[artifact] = name


def _refuse_equal_names(dag: Dag) -> None:
    """Refuse nodes whose tasks Kubeflow would tell apart by a number alone.

    Their results and logs could not be assigned to them.
    """
    node_of: dict[str, str] = {}
    for node in dag.nodes:
        other = node_of.setdefault(task_name(node), node)
        if other != node:
            raise ParameterError(
                f"{other} and {node} have one name on Kubeflow, where letters are small and"
                " all but letters and digits are dashes",
                received=task_name(node),
                remedy="rename one of the recipes, so that the names differ by more than"
                " - and _ or upper case",
            )


def _identities(dag: Dag) -> dict[str, str]:
    # Content and machine are unknown here: sources stand for themselves, and
    # `source_digest` is added to each identity when the pipeline runs.
    return dag.identities({name: name for name in dag.sources}, machine="")


def _resources(package: Any, namespace: str) -> dict[str, Any]:
    """Return the compiler's options for a Pipeline and a PipelineVersion."""
    content = [package.pipeline_spec, package.platform_spec]
    digest = hashlib.sha256(
        b"".join(item.SerializeToString(deterministic=True) for item in content)
    )
    version = f"{package.name}-{digest.hexdigest()[:12]}"
    options = KubernetesManifestOptions(
        pipeline_name=package.name,
        pipeline_version_name=version,
        pipeline_version_display_name=version,
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    return {"kubernetes_manifest_format": True, "kubernetes_manifest_options": options}


def _write(package: Any, out: Path, options: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Compile beside `out`, then put it in its place."""
    # The compiler only takes names that end in .yaml.
    try:
        with written_beside(out, suffix=".yaml") as staged:
            compiler.Compiler().compile(package, str(staged), **options)
            staged.replace(out)
    except OutputError as error:
        raise OutputError(
            f"--out: {error.what}", received=error.received, remedy=error.remedy
        ) from error


def _pipeline_function(
    dag: Dag, image: str, placements: Mapping[str, Placement], *, display_names: bool
) -> Any:
    identities = _identities(dag)

    def pipeline(*arguments: Any) -> None:
        *uris, digest = arguments
        importers = {
            name: dsl.importer(artifact_uri=uri, artifact_class=kfp_type(kind))
            for (name, kind), uri in zip(dag.sources.items(), uris, strict=True)
        }
        tasks: dict[str, Any] = {}
        for node in dag.nodes.values():
            placement = placements.get(node.id, Placement())
            made = component(
                node.step,
                image=placement.image or image,
                members=_members(node),
                # Tasks take their names from this.
                name=node.id,
                identity=identities[node.id],
                tolerate=node.tolerate,
            )
            inputs = {
                name: importers[edge.node].output
                if edge.node in importers
                else tasks[edge.node].outputs[edge.output]
                for name, edge in _edges(node).items()
            }
            parameters = {**node.parameters, **placement.parameters, SOURCE_DIGEST: digest}
            task = made(**inputs, **parameters)
            if display_names:
                task.set_display_name(display_name(node.step.name, node.id))
            _place(task, placement)
            if node.step.side_effects:
                task.set_caching_options(enable_caching=False)
            tasks[node.id] = task

    def parameter(name: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Parameter(name, kind, annotation=str, default=default)

    # kfp reads a pipeline's parameters from a function's signature and text.
    pipeline.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(parameter(f"{name}_uri") for name in dag.sources), parameter(SOURCE_DIGEST, "")]
    )
    described = {f"{name}_uri": f"Where the {name} lies." for name in dag.sources}
    described[SOURCE_DIGEST] = "Names the content behind the URIs; a new one misses the cache."
    lines = "\n".join(f"    {name}: {text}" for name, text in described.items())
    pipeline.__doc__ = f"Optimize a trained model, and choose the best result.\n\nArgs:\n{lines}"
    return pipeline


def _place(task: Any, placement: Placement) -> None:
    """Tell `task` where it runs, in kfp's own terms."""
    for value, tell in (
        (placement.cpu, task.set_cpu_request),
        (placement.cpu_limit, task.set_cpu_limit),
        (placement.memory, task.set_memory_request),
        (placement.memory_limit, task.set_memory_limit),
    ):
        if value is not None:
            tell(value)
    if placement.resource is not None:
        task.set_accelerator_type(placement.resource)
        task.set_accelerator_limit(placement.accelerator_count)
    for key, value in sorted(placement.labels.items()):
        kubernetes.add_node_selector(task, key, value)
    for toleration in placement.tolerations:
        kubernetes.add_toleration(
            task,
            toleration.key,
            toleration.operator,
            toleration.value or None,
            toleration.effect,
            toleration.toleration_seconds,
        )
    if placement.shm is not None:
        # Docker's own 64 MB are too few for what several processes share.
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", placement.shm)
    if placement.timeout_seconds is not None:
        kubernetes.set_timeout(task, placement.timeout_seconds)
        # Not as an argument, which Kubeflow's cache would look at.
        task.set_env_variable(TIME_VARIABLE, f"{_step_seconds(placement.timeout_seconds)}s")
    if placement.retry is not None:
        task.set_retry(
            placement.retry.count,
            f"{placement.retry.backoff_seconds}s",
            placement.retry.factor,
            f"{placement.retry.max_seconds}s",
        )
    if not placement.cache:
        task.set_caching_options(False)
    _set_environment(task, placement)
    _set_pod(task, placement)


def _step_seconds(timeout: int) -> int:
    """Return the time limit of a step whose pod is ended after `timeout` seconds.

    What is left is for the image and the inputs before it, and for its outcome after it.
    """
    if timeout <= 2 * _LEAST_MARGIN_SECONDS:
        return max(1, timeout // 2)
    return timeout - min(max(timeout // 20, _LEAST_MARGIN_SECONDS), _MOST_MARGIN_SECONDS)


def _set_environment(task: Any, placement: Placement) -> None:
    """Set the environment variables, grouped by the Secret or ConfigMap that holds them."""
    taken: dict[tuple[str, str, bool], dict[str, list[str]]] = {}
    for variable, value in sorted(placement.env.items()):
        if isinstance(value, str):
            task.set_env_variable(variable, value)
        else:
            source = taken.setdefault((value.kind, value.name, value.optional), {})
            source.setdefault(value.key, []).append(variable)
    use = {"secret": kubernetes.use_secret_as_env, "config_map": kubernetes.use_config_map_as_env}
    for (kind, name, optional), keys in taken.items():
        # One key may become several variables, which kfp's mapping can't say.
        for position in range(max(map(len, keys.values()))):
            those = {key: names[position] for key, names in keys.items() if position < len(names)}
            use[kind](task, name, those, optional=optional)


def _set_pod(task: Any, placement: Placement) -> None:
    """Set image pulls, labels, annotations, volumes and user of the pod."""
    if placement.image_pull_policy is not None:
        kubernetes.set_image_pull_policy(task, placement.image_pull_policy)
    if placement.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(placement.image_pull_secrets))
    for key, value in sorted(placement.pod_labels.items()):
        kubernetes.add_pod_label(task, key, value)
    annotations = dict(placement.annotations)
    if placement.store_identity:
        annotations[STORE_IDENTITY] = " ".join(placement.store_identity)
    for key, value in sorted(annotations.items()):
        kubernetes.add_pod_annotation(task, key, value)
    for path, volume in sorted(placement.volumes.items()):
        if volume.claim is not None:
            kubernetes.mount_pvc(task, volume.claim, path, volume.sub_path)
        elif volume.secret is not None:
            kubernetes.use_secret_as_volume(task, volume.secret, path, volume.optional)
        elif volume.config_map is not None:
            kubernetes.use_config_map_as_volume(task, volume.config_map, path, volume.optional)
    user = placement.security_context
    given = {name: value for name, value in user if value is not None}
    if given:
        kubernetes.set_security_context(task, **given)


def _members(node: Node) -> dict[str, list[str]]:
    return {name: list(wire) for name, wire in node.inputs.items() if isinstance(wire, Mapping)}


def _edges(node: Node) -> dict[str, Edge]:
    """Return the node's edges by the names of its component's inputs."""
    result: dict[str, Edge] = {}
    for name, wire in node.inputs.items():
        if isinstance(wire, Edge):
            result[name] = wire
    for input_name, (family, key) in member_inputs(node.step, _members(node)).items():
        wire = node.inputs[family]
        if isinstance(wire, Mapping):
            result[input_name] = wire[key]
    return result
