"""A destination's versions: how one is made, what is served, and the way back."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from paring import storage
from paring.artifacts import Servable, content_digest
from paring.errors import ArtifactTypeError, ModelError, OutputError, ParameterError, StorageError
from paring.serving import versions as serving
from paring.serving.versions import (
    RECORDS,
    Version,
    publish,
    roll_back,
    rolled_back,
    run_once,
    versions,
)

Models = dict[str, Path]


@pytest.fixture(params=["path", "file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A destination that nothing was pushed to."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/serving/digits"
    folder = tmp_path / "serving" / "digits"
    return folder.as_uri() if request.param == "file" else str(folder)


def _push(place: str, model: Path, candidate: str = "") -> Version:
    return publish(place, model, Version(action="push", candidate=candidate, run="a run"))


def _push_together(place: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """Push twice at once, so that neither sees the other's version before it has a number."""
    both = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(serving, "run_once", lambda *_, **__: both.wait())
    with ThreadPoolExecutor(2) as pool:
        pushes = [pool.submit(_push, place, model, name) for name in ("a", "b")]
        return [push.result() for push in pushes]


def _numbers(place: str) -> list[int]:
    return [version.number for version in versions(place)]


def _seen(place: str) -> set[str]:
    """Return the paths that TF Serving finds below the destination."""
    root = place if storage.is_remote(place) else str(storage.local_path(place))
    below = (item.uri.removeprefix(f"{root}/") for item in storage.list_below(place))
    return {name for name in below if not name.startswith(f"{RECORDS}/")}


def test_versions_count_up_from_one(place: str, tiny_models: Models, tmp_path: Path) -> None:
    assert versions(place) == []
    made = _push(place, tiny_models["one"], "int8")
    assert (made.number, made.digest) == (1, content_digest(tiny_models["one"]))
    assert _push(place, tiny_models["saved"]).number == 2
    assert "1/model.tflite" in _seen(place)
    assert {"2/saved_model.pb", "2/variables/variables.index"} <= _seen(place)
    whole = storage.fetch(storage.join(place, "2"), tmp_path / "back")
    assert content_digest(whole) == content_digest(tiny_models["saved"])
    first, second = versions(place)
    assert first == made
    assert (first.action, first.candidate, first.run) == ("push", "int8", "a run")
    assert first.host
    assert first.when <= second.when


def test_files_of_every_runtime_are_versions(place: str, tmp_path: Path) -> None:
    import onnx
    import openvino

    onnx_folder, openvino_folder = tmp_path / "onnx", tmp_path / "openvino"
    for folder in (onnx_folder, openvino_folder):
        folder.mkdir()
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3])
        for name in ("x", "y")
    ]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "relu", tensors[:1], tensors[1:])
    opset = onnx.helper.make_opsetid("", 18)
    file = onnx_folder / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), file)
    openvino.save_model(openvino.Core().read_model(file), openvino_folder / "model.xml")
    for folder in (onnx_folder, openvino_folder):
        publish(place, folder, Version(action="push"))
    assert [version.number for version in versions(place)] == [1, 2]
    assert {"1/model.onnx", "2/model.xml", "2/model.bin"} <= set(_seen(place))


def test_nothing_but_versions_and_records_is_left(place: str, tiny_models: Models) -> None:
    _push(place, tiny_models["one"])
    result = [item.uri.partition("/digits/")[2] for item in storage.list_below(place)]
    assert result == [f"{RECORDS}/1.json", "1/model.tflite"]


def test_the_newest_is_not_pushed_again(place: str, tiny_models: Models) -> None:
    first = _push(place, tiny_models["one"])
    assert _push(place, tiny_models["one"]) == first
    _push(place, tiny_models["two"])
    assert _push(place, tiny_models["one"]).number == 3
    assert _numbers(place) == [1, 2, 3]


def test_the_newest_is_pushed_again_where_it_was_changed(place: str, tiny_models: Models) -> None:
    first = _push(place, tiny_models["one"])
    storage.write_text(storage.join(place, "1", "model.tflite"), "other")
    second = _push(place, tiny_models["one"])
    assert (second.number, second.digest) == (2, first.digest)
    assert _push(place, tiny_models["one"]) == second
    assert _numbers(place) == [1, 2]


def test_the_newest_is_pushed_again_where_a_file_of_it_is_a_link_that_leads_out(
    tmp_path: Path, tiny_models: Models
) -> None:
    place, elsewhere = tmp_path / "digits", tmp_path / "elsewhere"
    _push(str(place), tiny_models["one"])
    (place / "1" / "model.tflite").rename(elsewhere)
    (place / "1" / "model.tflite").symlink_to(elsewhere)
    assert _push(str(place), tiny_models["one"]).number == 2
    assert not (place / "2" / "model.tflite").is_symlink()


def test_numbers_go_on_from_those_of_another_tool(place: str, tiny_models: Models) -> None:
    # TFX's Pusher counts seconds; what it is still writing has a number as well.
    storage.put(tiny_models["saved"], storage.join(place, "1700000000"))
    storage.write_text(storage.join(place, "1700000005", "variables", "part"), "")
    assert versions(place) == [Version(1700000000)]
    assert _push(place, tiny_models["one"]).number == 1700000006


def test_digits_of_other_scripts_are_no_versions(place: str) -> None:
    storage.write_text(storage.join(place, "٣", "model.tflite"), "")
    storage.write_text(storage.join(place, "2", "model.tflite"), "")
    assert _numbers(place) == [2]


def test_a_number_that_a_killed_writer_claimed_is_passed_over(
    place: str, tiny_models: Models
) -> None:
    storage.write_text(storage.join(place, RECORDS, "1.json"), "{}")
    assert versions(place) == []
    assert _push(place, tiny_models["one"]).number == 2
    assert _numbers(place) == [2]


@pytest.mark.parametrize("name", ["one", "saved"])
def test_a_model_that_does_not_load_from_there_is_never_seen(
    name: str, place: str, tiny_models: Models, tmp_path: Path
) -> None:
    _push(place, tiny_models["two"])
    broken = tmp_path / "broken"
    shutil.copytree(tiny_models[name], broken)
    file = next(
        path for path in broken.iterdir() if path.name in ("model.tflite", "saved_model.pb")
    )
    file.write_bytes(file.read_bytes()[:40])
    before = list(storage.list_below(place))
    with pytest.raises(ModelError):
        _push(place, broken)
    assert list(storage.list_below(place)) == before


def test_a_model_that_does_not_run_is_never_seen(tmp_path: Path, tiny_models: Models) -> None:
    with pytest.raises(ModelError, match="batch of zeros"):
        _push(str(tmp_path / "serving"), tiny_models["picky"])
    assert versions(str(tmp_path / "serving")) == []


def test_a_model_of_text_is_loaded_alone(tiny_models: Models) -> None:
    run_once(Servable(tiny_models["words"]))


def test_writers_at_the_same_time_get_numbers_of_their_own(
    tmp_path: Path, tiny_models: Models
) -> None:
    place = str(tmp_path / "serving")
    folders = []
    for index in range(6):
        folders.append(tmp_path / f"model-{index}")
        shutil.copytree(tiny_models["one"], folders[-1])
        (folders[-1] / "which").write_text(str(index))
    made: list[Version] = []
    start = threading.Barrier(len(folders))

    def push(folder: Path) -> None:
        start.wait()
        made.append(_push(place, folder, folder.name))

    writers = [threading.Thread(target=push, args=(folder,)) for folder in folders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(item.number for item in made) == [1, 2, 3, 4, 5, 6]
    for version in versions(place):
        held = tmp_path / "serving" / str(version.number) / "which"
        assert version.candidate == f"model-{held.read_text()}"


def test_a_rollback_serves_the_version_before_again(place: str, tiny_models: Models) -> None:
    for name in ("one", "two"):
        _push(place, tiny_models[name], name)
    made = roll_back(place, run="paring rollback")
    assert (made.number, made.action, made.of, made.candidate) == (3, "rollback", 1, "one")
    assert made.run == "paring rollback"
    assert _numbers(place) == [1, 2, 3]
    assert versions(place)[-1].digest == content_digest(tiny_models["one"])
    assert rolled_back(versions(place)) == {content_digest(tiny_models["two"]): 2}


def test_a_second_rollback_goes_further_back(tmp_path: Path, tiny_models: Models) -> None:
    place = str(tmp_path)
    for name in ("one", "two", "saved"):
        _push(place, tiny_models[name], name)
    assert roll_back(place).candidate == "two"
    assert roll_back(place).candidate == "one"
    assert sorted(rolled_back(versions(place)).values()) == [2, 3]
    with pytest.raises(ParameterError, match="--to"):
        roll_back(place)


def test_what_was_rolled_back_can_be_brought_back(tmp_path: Path, tiny_models: Models) -> None:
    place = str(tmp_path)
    for name in ("one", "two"):
        _push(place, tiny_models[name], name)
    roll_back(place)
    made = roll_back(place, 2)
    assert (made.number, made.of, made.withdrawn) == (4, 2, "")
    # Neither of them counts as rolled back now, and the way back leads to the first.
    assert rolled_back(versions(place)) == {}
    assert roll_back(place).candidate == "one"


def test_going_back_to_what_is_served_makes_no_version(tmp_path: Path, tiny_models: Models) -> None:
    place = str(tmp_path)
    for name in ("one", "two"):
        _push(place, tiny_models[name])
    roll_back(place)
    assert roll_back(place, 1).number == 3
    assert _numbers(place) == [1, 2, 3]


def test_a_version_of_another_tool_can_be_gone_back_to(place: str, tiny_models: Models) -> None:
    storage.put(tiny_models["saved"], storage.join(place, "7"))
    _push(place, tiny_models["one"])
    made = roll_back(place)
    assert (made.number, made.of) == (9, 7)
    assert made.digest == content_digest(tiny_models["saved"])


def test_a_version_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, tiny_models: Models
) -> None:
    place = str(tmp_path / "serving")
    with pytest.raises(ParameterError, match="no versions here"):
        roll_back(place)
    _push(place, tiny_models["one"])
    with pytest.raises(ParameterError, match="no version 7") as raised:
        roll_back(place, 7)
    assert raised.value.remedy == "give one of its versions: 1"
    with pytest.raises(ParameterError, match="no earlier version"):
        roll_back(place)


def test_a_version_that_was_changed_is_not_gone_back_to(
    place: str, tiny_models: Models, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        _push(place, tiny_models[name])
    storage.write_text(storage.join(place, "1", "model.tflite"), "other")
    with pytest.raises(StorageError, match="not what it was"):
        roll_back(place)
    assert _numbers(place) == [1, 2]


def test_a_record_that_can_not_be_read_is_named(tmp_path: Path, tiny_models: Models) -> None:
    _push(str(tmp_path), tiny_models["one"])
    (tmp_path / RECORDS / "1.json").write_text("{")
    with pytest.raises(ArtifactTypeError, match=r"1\.json"):
        versions(str(tmp_path))


def test_a_record_of_a_later_release_is_read(tmp_path: Path, tiny_models: Models) -> None:
    made = _push(str(tmp_path), tiny_models["one"])
    file = tmp_path / RECORDS / "1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": 1}))
    assert versions(str(tmp_path)) == [made]


def test_a_destination_that_can_not_be_written_is_named(
    tmp_path: Path, tiny_models: Models
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="can't be written"):
        _push(str(tmp_path / "file" / "serving"), tiny_models["one"])


def test_two_pushes_of_one_model_at_once_make_one_version(
    place: str, tiny_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    _push(place, tiny_models["one"])
    first, second = _push_together(place, tiny_models["saved"], monkeypatch)
    assert first == second
    assert _numbers(place) == [1, 2]
    assert not [name for name in _seen(place) if name.startswith("3")]


def test_a_push_that_was_killed_is_not_waited_for(
    place: str, tiny_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = Version(1, content_digest(tiny_models["one"]), "push", when="2026-01-01T00:00:00")
    record = storage.join(place, RECORDS, "1.json")
    aware = claimed.when + "+00:00"
    assert storage.create(record, json.dumps(vars(claimed) | {"when": aware}))
    monkeypatch.setattr(serving.time, "sleep", lambda _: pytest.fail("it waits"))
    assert _push(place, tiny_models["one"]).number == 2


def test_a_push_that_has_just_been_killed_is_waited_for_a_while(
    tmp_path: Path, tiny_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    claimed = Version(1, content_digest(tiny_models["one"]), "push", when=now)
    assert storage.create(storage.join(place, RECORDS, "1.json"), json.dumps(vars(claimed)))
    monkeypatch.setattr(serving, "_PUTTING_SECONDS", 2)
    waits: list[float] = []
    sleep = serving.time.sleep
    monkeypatch.setattr(serving.time, "sleep", lambda s: (waits.append(s), sleep(s)))
    assert _push(place, tiny_models["one"]).number == 2
    assert waits
