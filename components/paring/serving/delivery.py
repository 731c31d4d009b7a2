"""Delivery of a chosen candidate whose source was cut at its numeric core."""

from pathlib import Path

from paring.artifacts import CORE_DIR, SelectedModel, Servable
from paring.models.numeric_parts import INTERFACE, POSTPROCESS, PREPROCESS, SOURCE
from paring.models.saved_model import SavedModel, holds_saved_model
from paring.system.trees import copy_tree


def deliver(source: Servable, candidate: Path, selected: SelectedModel, *, is_source: bool) -> None:
    """Write the whole model into `selected`, with a candidate as its core.

    A SavedModel is joined with the text work, under the source's signature. Beside another form
    lies the text work, for `paring.load_runner`. The candidate itself is kept as the core.

    Args:
        source: The model that was cut.
        candidate: The folder of the candidate's served form.
        selected: Gets both.
        is_source: Whether the candidate is the source's own core; then the whole is a copy.

    Raises:
        ModelError: A part is missing or broken.
        UntrustedModelError: One holds operators that may touch files, processes or the network.
    """
    core = selected.path / CORE_DIR
    copy_tree(candidate, core)
    if is_source:
        copy_tree(source.parts_dir / SOURCE, selected.serving_dir)
    elif holds_saved_model(candidate):
        if not selected.trusted:
            SavedModel.open(Servable(core, signature=source.signature))
        from paring.graphs.numeric_core import join_parts

        join_parts(source.parts_dir, core, selected.serving_dir, trusted=selected.trusted)
    else:
        copy_tree(candidate, selected.serving_dir)
        for name in (PREPROCESS, POSTPROCESS):
            if (source.parts_dir / name).is_dir():
                copy_tree(source.parts_dir / name, selected.serving_dir / name)
        content = (source.parts_dir / INTERFACE).read_bytes()
        (selected.serving_dir / INTERFACE).write_bytes(content)
