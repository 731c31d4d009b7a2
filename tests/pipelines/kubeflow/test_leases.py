"""Claims: of several that want one, one has it, until it has run out."""

import json
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from paring.errors import ClusterError, StorageError
from paring.storage import read_text
from paring_pipelines.kubeflow.leases import Claim, Claims, LeaseExpiredError, Progress, Standing


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(str(tmp_path / "claims"), lease=60.0, margin=10.0)


@pytest.fixture(params=["path", "store"])
def anywhere(request: pytest.FixtureRequest, claims: Claims) -> Claims:
    """Claims on a path, and in a bucket."""
    if request.param == "path":
        return claims
    return Claims(f"s3://{request.getfixturevalue('bucket')}/claims", lease=60.0, margin=10.0)


def _run() -> str:
    return "pipeline-a-b"


def _claim(claims: Claims, key: str, run: str = _run()) -> Claim | None:
    return claims.claim(key, lambda: run, claims.standings().get(key, Standing()))


def test_one_of_many_gets_it(anywhere: Claims) -> None:
    got: list[Claim | None] = []
    start = threading.Barrier(12)

    def go() -> None:
        start.wait()
        got.append(anywhere.claim("a", _run))

    threads = [threading.Thread(target=go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(item is not None for item in got) == 1


def test_it_is_anothers_until_it_runs_out(anywhere: Claims) -> None:
    assert _claim(anywhere, "a")
    assert _claim(anywhere, "a") is None
    Claims(anywhere.state, lease=-1.0, margin=0.0).claim("b", _run)
    assert _claim(anywhere, "b")
    assert _claim(anywhere, "b") is None
    assert anywhere.standings() == {"a": Standing(claims=1), "b": Standing(claims=2)}


def test_of_many_that_take_one_up_again_one_gets_it(anywhere: Claims) -> None:
    Claims(anywhere.state, lease=-1.0, margin=0.0).claim("a", _run)
    stale = anywhere.standings()["a"]
    assert [anywhere.claim("a", _run, stale) is None for _ in range(3)] == [False, True, True]


def _fail(progress: Progress, *, begun: bool) -> None:
    if begun:
        progress.begin()
    raise ClusterError("refused")


@pytest.mark.parametrize("begun", [False, True])
def test_a_claim_is_given_back_where_nothing_was_begun(anywhere: Claims, begun: bool) -> None:
    claim = _claim(anywhere, "a")
    assert claim is not None
    with pytest.raises(ClusterError):
        anywhere.hold(claim, lambda progress: _fail(progress, begun=begun))
    assert (_claim(anywhere, "a") is None) == begun


def test_nothing_is_begun_that_might_outlast_it(claims: Claims) -> None:
    claim = _claim(claims, "a")
    assert claim is not None
    claim.check()
    with pytest.raises(LeaseExpiredError):
        Claim(claim.uri, time.time() + 9.0, claim.margin, claim.run).check()


def test_what_is_done_stays_done(anywhere: Claims) -> None:
    _claim(anywhere, "a")
    anywhere.finish("a", {"run": "1"})
    assert anywhere.standings()["a"].done


def test_of_two_records_the_first_stays(anywhere: Claims) -> None:
    assert anywhere.finish("a", {"run": "1"}) == {"run": "1"}
    assert anywhere.finish("a", {"run": "2"}) == {"run": "1"}


def test_a_claim_names_the_run_that_is_about_to_be_started(anywhere: Claims) -> None:
    for number, name in enumerate(("first", "second", "second", "third"), 1):
        claim = Claims(anywhere.state, lease=-1.0, margin=0.0).claim(
            "a", lambda name=name: name, Standing(claims=number - 1)
        )
        assert claim is not None
        assert json.loads(read_text(claim.uri))["run"] == name
    assert claim.run == "third"
    assert claim.earlier == ("first", "second")


def test_what_was_found_out_before_a_claim_was_given_back_is_not_asked_again(
    anywhere: Claims,
) -> None:
    expired = Claims(anywhere.state, lease=-1.0, margin=0.0)
    for number, name in enumerate(("first", "second", "third")):
        expired.claim("a", lambda name=name: name, Standing(claims=number))
    claim = _claim(anywhere, "a", "second")
    assert claim is not None
    assert claim.earlier == ("first", "second", "third")

    def work(progress: Progress) -> None:
        progress.absent.add("first")
        raise ClusterError("away")

    with pytest.raises(ClusterError):
        anywhere.hold(claim, work)
    again = _claim(anywhere, "a", "fourth")
    assert again is not None
    # What the second claim intended was not looked for, and what the fourth did never begun.
    assert again.earlier == ("second", "third")


def test_the_run_is_not_named_while_another_holds_the_key(claims: Claims) -> None:
    def named() -> str:
        raise AssertionError("the source would be read for nothing")

    assert _claim(claims, "a")
    assert claims.claim("a", named, Standing(claims=1)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"owner": "x", "unt',
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"until": "soon", "run": "a", "earlier": []}',
        b'{"until": true, "run": "a", "earlier": []}',
        b'{"until": NaN, "run": "a", "earlier": []}',
        b'{"until": 1e999, "run": "a", "earlier": []}',
        b'{"until": 0, "run": 1, "earlier": []}',
        b'{"until": 0, "run": "a", "earlier": "b"}',
        b'{"until": 0, "run": "a", "earlier": [1]}',
        b"[" * 100_000,
    ],
)
def test_a_claim_with_odd_content_is_named(claims: Claims, content: bytes) -> None:
    file = Path(claims.state, "a", "claim-1")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(StorageError, match="delete") as raised:
        _claim(claims, "a")
    assert str(file) in str(raised.value)
    # Of two who find no claim, the later one meets it too.
    with pytest.raises(StorageError, match="delete") if content == b"\xff\xfe" else nullcontext():
        assert claims.claim("a", _run) is None


def test_a_record_with_odd_content_is_named(claims: Claims) -> None:
    file = Path(claims.state, "a", "run")
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(StorageError, match="a/run"):
        claims.finish("a", {"run": "1"})


def test_a_file_that_is_being_written_is_no_claim(claims: Claims) -> None:
    assert _claim(claims, "a")
    Path(claims.state, "a", ".claim-2.partial-0").write_text("{")
    assert claims.standings() == {"a": Standing(claims=1)}
