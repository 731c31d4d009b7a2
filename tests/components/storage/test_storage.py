"""Files and folders on paths, an S3 server and Google's API, with the same calls."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gcs_server import GcsServer

from paring.artifacts import content_digest
from paring.errors import OutputError, ParameterError, StorageError, UnsupportedError
from paring.storage import (
    create,
    delete,
    exists,
    fetch,
    filesystem,
    is_remote,
    join,
    list_below,
    local_path,
    move,
    name_of,
    put,
    read_text,
    write_text,
)


@pytest.fixture(params=["s3", "minio", "gs", "file", "path"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URI that nothing lies at yet."""
    if request.param == "gs":
        request.getfixturevalue("gcs")
        return "gs://models/team/place"
    if request.param in ("s3", "minio"):
        bucket: str = request.getfixturevalue("bucket")
        return f"{request.param}://{bucket}/team/place"
    folder = tmp_path / "team" / "place"
    return folder.as_uri() if request.param == "file" else str(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the files of a SavedModel, one of them empty."""
    folder = tmp_path / "given" / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph" * 1000)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        ("s3://bucket/key", True),
        ("gs://bucket/key", True),
        ("minio://bucket/key", True),
        ("file:///data/x", False),
        ("/data/x", False),
        ("data/x", False),
        ("C:/x", False),
    ],
)
def test_what_lies_in_a_store_is_told_from_what_lies_here(uri: str, remote: bool) -> None:
    assert is_remote(uri) is remote


def test_a_scheme_that_is_not_known_gets_the_nearest(tmp_path: Path) -> None:
    for call in (is_remote, exists, read_text, lambda uri: fetch(uri, tmp_path)):
        with pytest.raises(ParameterError, match="did you mean 's3'") as raised:
            call("s3n://bucket/key")
        assert raised.value.received == "s3n://bucket/key"


def test_a_file_uri_names_a_path_of_this_machine_alone() -> None:
    assert local_path("file:///data/a%20b") == Path("/data/a b")
    assert local_path("file://localhost/data") == Path("/data")
    with pytest.raises(ParameterError, match="this machine"):
        local_path("file://elsewhere/data")


def test_names_are_joined_and_taken_off() -> None:
    assert join("s3://bucket/a/", "b", "c") == "s3://bucket/a/b/c"
    assert name_of("s3://bucket/a/b/") == "b"
    assert name_of("/data/model.keras") == "model.keras"


def test_a_folder_comes_back_as_it_was_put(place: str, model: Path, tmp_path: Path) -> None:
    put(model, place)
    fetched = fetch(place, tmp_path / "into")
    assert content_digest(fetched) == content_digest(model)
    if is_remote(place):
        assert fetched == tmp_path / "into" / "place"
        assert [path.name for path in fetched.parent.iterdir()] == ["place"]
    else:
        assert fetched == local_path(place)


def test_a_file_comes_back_as_it_was_put(place: str, model: Path, tmp_path: Path) -> None:
    uri = join(place, "model.pb")
    put(model / "saved_model.pb", uri)
    fetched = fetch(uri, tmp_path / "into")
    assert fetched.name == "model.pb"
    assert fetched.read_bytes() == (model / "saved_model.pb").read_bytes()


def test_what_is_put_takes_the_place_of_all_that_was_there(
    place: str, model: Path, tmp_path: Path
) -> None:
    put(model, place)
    (model / "variables" / "variables.index").unlink()
    (model / "saved_model.pb").write_bytes(b"new")
    put(model, place)
    assert content_digest(fetch(place, tmp_path / "into")) == content_digest(model)


def test_what_is_fetched_takes_the_place_of_an_earlier_copy(
    bucket: str, model: Path, tmp_path: Path
) -> None:
    put(model, f"s3://{bucket}/model")
    fetch(f"s3://{bucket}/model", tmp_path / "into")
    delete(f"s3://{bucket}/model/variables")
    fetched = fetch(f"s3://{bucket}/model", tmp_path / "into")
    assert [path.name for path in fetched.rglob("*")] == ["saved_model.pb"]
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["model"]


def test_files_are_listed_with_size_and_time(place: str, model: Path, tmp_path: Path) -> None:
    put(model, place)
    write_text(f"{place}-other/file", "not below")
    result = list(list_below(place))
    assert [item.uri.partition("place/")[2] for item in result] == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert [item.size for item in result] == [5000, 0, 5]
    assert all(item.modified and item.modified > 1.7e9 for item in result)
    # Each URI can be given back.
    assert read_text(result[2].uri) == "index"
    assert [item.size for item in list_below(result[0].uri)] == [5000]


def test_files_that_come_and_go_do_not_disturb_a_listing(tmp_path: Path) -> None:
    write_text(str(tmp_path / "kept" / "file"), "text")
    done = threading.Event()

    def come_and_go() -> None:
        for index in range(300):
            write_text(str(tmp_path / "staged" / f"{index}" / "file"), "text")
            delete(str(tmp_path / "staged"))
        done.set()

    writer = threading.Thread(target=come_and_go)
    writer.start()
    while not done.is_set():
        assert str(tmp_path / "kept" / "file") in [item.uri for item in list_below(str(tmp_path))]
    writer.join()


def test_nothing_is_listed_where_there_is_nothing(place: str) -> None:
    assert list(list_below(place)) == []


def test_files_folders_and_nothing_are_told_apart(place: str) -> None:
    assert not exists(place)
    write_text(join(place, "a", "b"), "text")
    assert exists(place)
    assert exists(join(place, "a", "b"))
    assert not exists(join(place, "a", "c"))


def test_a_text_is_written_whole_and_read_again(place: str) -> None:
    uri = join(place, "note")
    for text in ("größer\nals zuvor", "new"):
        write_text(uri, text)
        assert read_text(uri) == text
    assert len(list(list_below(place))) == 1


def test_bytes_that_are_no_text_are_replaced_if_so_wished(place: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff end")
    uri = join(place, "log")
    put(tmp_path / "log", uri)
    with pytest.raises(StorageError, match="UTF-8"):
        read_text(uri)
    assert read_text(uri, errors="replace") == "\ufffd end"


def test_a_text_that_is_not_there_can_not_be_read(place: str) -> None:
    with pytest.raises(StorageError) as raised:
        read_text(join(place, "none"))
    assert "none" in str(raised.value)


def test_only_the_first_creates(place: str) -> None:
    uri = join(place, "claim")
    assert create(uri, "first") is True
    assert create(uri, "second") is False
    assert read_text(uri) == "first"
    assert len(list(list_below(place))) == 1
    delete(uri)
    assert create(uri, "third") is True


def test_of_many_writers_at_once_one_creates(tmp_path: Path) -> None:
    uri = str(tmp_path / "claims" / "one")
    result: list[tuple[str, bool]] = []
    start = threading.Barrier(8)

    def write(name: str) -> None:
        start.wait()
        result.append((name, create(uri, name)))

    writers = [threading.Thread(target=write, args=(f"writer {n}",)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    winners = [name for name, created in result if created]
    assert [read_text(uri)] == winners
    assert len(list((tmp_path / "claims").iterdir())) == 1


def _without_links(script: str, *arguments: Path) -> str:
    """Return the output of a process that the kernel refuses hard links."""
    start = "import sys\nfrom pathlib import Path\nfrom paring.storage import create\n"
    start += "from tests.conformance.no_links import LINKS, RENAMES, refuse\nrefuse(LINKS)\n"
    done = subprocess.run(
        [sys.executable, "-c", start + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    return done.stdout


def test_without_hard_links_only_the_first_creates_and_no_reader_sees_half(tmp_path: Path) -> None:
    script = """
import threading
text = "a" * 100_000
for number in range(50):
    file = Path(sys.argv[1], str(number))
    results, read, start = [], set(), threading.Barrier(5)
    def write(one):
        start.wait()
        results.append(create(str(file), f"{one}{text}"))
    def look():
        start.wait()
        while len(results) < 4:
            if file.exists():
                read.add(len(file.read_text()))
    threads = [threading.Thread(target=write, args=(one,)) for one in range(4)]
    threads.append(threading.Thread(target=look))
    [one.start() for one in threads]
    [one.join() for one in threads]
    assert sum(results) == 1, results
    assert read <= {len(text) + 1}, read
print("all")
"""
    assert _without_links(script, tmp_path) == "all\n"
    assert len(list(tmp_path.iterdir())) == 50


def test_a_file_system_without_any_atomic_create_is_refused(tmp_path: Path) -> None:
    script = """
from paring.errors import UnsupportedError
refuse(RENAMES)
try:
    create(sys.argv[1], "text")
except UnsupportedError as error:
    print(error)
"""
    said = _without_links(script, tmp_path / "file")
    assert str(tmp_path / "file") in said
    assert "use a store with conditional writes" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_folder_is_removed_and_nothing_else(place: str) -> None:
    for name in ("a/b", "a/c", "ab", "a[b]", "*"):
        write_text(join(place, name), name)
    delete(join(place, "a"))
    delete(join(place, "*"))
    delete(join(place, "a"))
    assert [item.uri.partition("place/")[2] for item in list_below(place)] == ["a[b]", "ab"]


def test_a_whole_bucket_is_not_removed(bucket: str) -> None:
    write_text(f"s3://{bucket}/kept", "text")
    with pytest.raises(ParameterError, match="bucket"):
        delete(f"s3://{bucket}/")
    assert exists(f"s3://{bucket}/kept")


def test_a_folder_is_moved_to_a_free_place(place: str, model: Path, tmp_path: Path) -> None:
    put(model, join(place, "staged"))
    move(join(place, "staged"), join(place, "1"), last="saved_model.pb")
    assert not exists(join(place, "staged"))
    assert content_digest(fetch(join(place, "1"), tmp_path / "into")) == content_digest(model)


def test_the_file_that_says_complete_is_moved_last(
    bucket: str, copied: list[str], model: Path
) -> None:
    put(model, f"s3://{bucket}/staged")
    move(f"s3://{bucket}/staged", f"s3://{bucket}/1", last="saved_model.pb")
    assert len(copied) == 3
    assert copied[-1] == f"/{bucket}/1/saved_model.pb"


def test_a_folder_is_not_moved_onto_another(model: Path, tmp_path: Path) -> None:
    put(model, str(tmp_path / "staged"))
    put(model, str(tmp_path / "1"))
    with pytest.raises(OutputError):
        move(str(tmp_path / "staged"), str(tmp_path / "1"))
    assert (tmp_path / "staged" / "saved_model.pb").is_file()


def test_marks_of_empty_folders_are_no_files(bucket: str, model: Path, tmp_path: Path) -> None:
    put(model, f"s3://{bucket}/model")
    store = filesystem(f"s3://{bucket}")
    for name in ("model/", "model/assets/"):
        store.call_s3("put_object", Bucket=bucket, Key=name, Body=b"")
    assert len(list(list_below(f"s3://{bucket}/model"))) == 3
    fetched = fetch(f"s3://{bucket}/model", tmp_path / "into")
    assert content_digest(fetched) == content_digest(model)


def test_an_object_can_not_lead_out_of_the_folder_it_is_fetched_to(
    bucket: str, tmp_path: Path
) -> None:
    store = filesystem(f"s3://{bucket}")
    store.call_s3("put_object", Bucket=bucket, Key="model/../../outside", Body=b"bad")
    with pytest.raises(StorageError, match="no path"):
        fetch(f"s3://{bucket}/model", tmp_path / "into" / "here")
    assert list(tmp_path.rglob("outside")) == []
    assert list((tmp_path / "into" / "here").iterdir()) == []


def test_fetching_what_is_not_there_leaves_an_earlier_copy(
    bucket: str, model: Path, tmp_path: Path
) -> None:
    put(model, f"s3://{bucket}/model")
    fetched = fetch(f"s3://{bucket}/model", tmp_path / "into")
    delete(f"s3://{bucket}/model")
    with pytest.raises(StorageError, match="nothing at this place") as raised:
        fetch(f"s3://{bucket}/model", tmp_path / "into")
    assert raised.value.received == f"s3://{bucket}/model"
    assert content_digest(fetched) == content_digest(model)
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["model"]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    "call",
    [
        lambda uri, folder: list(list_below(uri)),
        lambda uri, folder: fetch(uri, folder),
        lambda uri, folder: write_text(uri, "text"),
        lambda uri, folder: create(uri, "text"),
    ],
)
@pytest.mark.usefixtures("bucket", "gcs")
def test_a_bucket_that_is_not_there_is_named(
    call: Callable[[str, Path], Any], scheme: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="no bucket absent-bucket"):
        call(f"{scheme}://absent-bucket/key", tmp_path)


def test_missing_credentials_are_named_with_the_uri(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(StorageError, match=f"s3://{bucket}/key") as raised:
        exists(f"s3://{bucket}/key")
    assert "credentials" in raised.value.received
    assert "AWS_ACCESS_KEY_ID" in raised.value.remedy


def test_an_address_that_nobody_answers_at_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="can't be reached") as raised:
        exists(f"s3://{bucket}/key")
    assert "http://127.0.0.1:9" in raised.value.received
    assert "AWS_ENDPOINT_URL" in raised.value.remedy


def test_the_address_for_s3_alone_goes_before_the_general_one(
    bucket: str, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    write_text(f"s3://{bucket}/key", "text")
    assert read_text(f"s3://{bucket}/key") == "text"


def test_a_store_that_ignores_the_condition_is_found_out(
    careless_bucket: str, gcs: GcsServer
) -> None:
    gcs.objects["careless"] = {}
    gcs.ignores_conditions = True
    for uri in (f"s3://{careless_bucket}/claim", "gs://careless/claim"):
        with pytest.raises(UnsupportedError, match="overwrites"):
            create(uri, "first")


def test_a_pipe_is_never_replaced_by_a_file(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "pipes"
    folder.mkdir()
    pipe, link = folder / "pipe", folder / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link):
        for call in (put, lambda path, uri: write_text(uri, path.name)):
            with pytest.raises(OutputError, match="a device, a pipe or a socket") as raised:
                call(model, str(target))
            assert str(target) in raised.value.received
        with pytest.raises(OutputError, match="a device, a pipe or a socket"):
            create(str(target), "text")
    assert pipe.is_fifo()
    assert sorted(folder.iterdir()) == [link, pipe]


def test_a_path_that_can_not_be_written_is_named(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for call in (
        lambda uri: put(model, uri),
        lambda uri: write_text(uri, "text"),
        lambda uri: create(uri, "text"),
    ):
        with pytest.raises(OutputError) as raised:
            call(str(tmp_path / "file" / "out"))
        assert "file" in raised.value.received
    assert (tmp_path / "file").read_text() == "mine"


WITHOUT = """
import sys
sys.modules[{package!r}] = None
from paring.errors import MissingDependencyError
from paring.storage import exists
try:
    exists({uri!r})
except MissingDependencyError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "uri", "extra"),
    [("s3fs", "s3://bucket/key", "s3"), ("gcsfs", "gs://bucket/key", "gcs")],
)
def test_a_package_that_is_not_installed_is_named(package: str, uri: str, extra: str) -> None:
    code = WITHOUT.format(package=package, uri=uri)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'paring[{extra}]'" in done.stdout


def test_nothing_is_imported_for_a_path(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom paring.storage import exists, put\n"
        f"exists({str(tmp_path)!r}), exists('file:///none')\n"
        "print({'fsspec', 's3fs', 'gcsfs', 'botocore', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
