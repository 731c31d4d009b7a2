"""Claims: of several that want one, one has it, until it has run out."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paring.errors import ClusterError
from paring.storage import join, list_below
from paring_pipelines.cluster.claims import Claim, Claims, ClaimSpentError, Standing


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(str(tmp_path / "claims"), lease=60.0, margin=10.0)


@pytest.fixture(params=["path", "store"])
def anywhere(request: pytest.FixtureRequest, claims: Claims) -> Claims:
    """Claims on a path, and in a bucket."""
    if request.param == "path":
        return claims
    return Claims(f"s3://{request.getfixturevalue('bucket')}/claims", lease=60.0, margin=10.0)


def _claim(claims: Claims, key: str) -> Claim | None:
    return claims.claim(key, claims.standings().get(key, Standing()))


def test_one_of_many_gets_it(anywhere: Claims) -> None:
    got: list[Claim | None] = []
    start = threading.Barrier(12)

    def go() -> None:
        start.wait()
        got.append(anywhere.claim("a"))

    threads = [threading.Thread(target=go) for _ in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sum(one is not None for one in got) == 1


def test_it_is_anothers_until_it_runs_out(anywhere: Claims) -> None:
    assert _claim(anywhere, "a")
    assert _claim(anywhere, "a") is None
    Claims(anywhere.state, lease=-1.0, margin=0.0).claim("b")
    assert _claim(anywhere, "b")
    assert _claim(anywhere, "b") is None
    assert anywhere.standings() == {"a": Standing(claims=1), "b": Standing(claims=2)}


def test_of_many_that_take_one_up_again_one_gets_it(anywhere: Claims) -> None:
    Claims(anywhere.state, lease=-1.0, margin=0.0).claim("a")
    stale = anywhere.standings()["a"]
    assert [anywhere.claim("a", stale) is None for _ in range(3)] == [False, True, True]


def _fail(begin: Callable[[], None], *, begun: bool) -> None:
    if begun:
        begin()
    raise ClusterError("refused")


@pytest.mark.parametrize("begun", [False, True])
def test_a_claim_is_given_back_where_nothing_was_begun(anywhere: Claims, begun: bool) -> None:
    claim = _claim(anywhere, "a")
    assert claim is not None
    with pytest.raises(ClusterError):
        anywhere.hold(claim, lambda begin: _fail(begin, begun=begun))
    assert (_claim(anywhere, "a") is None) == begun


def test_nothing_is_begun_that_might_outlast_it(claims: Claims) -> None:
    claim = _claim(claims, "a")
    assert claim is not None
    claim.check()
    with pytest.raises(ClaimSpentError):
        Claim(claim.uri, time.time() + 9.0, claim.margin).check()


def test_what_is_done_stays_done(anywhere: Claims) -> None:
    _claim(anywhere, "a")
    anywhere.finish("a", {"run": "1"})
    assert anywhere.standings()["a"].done


def test_a_claim_whose_writer_was_killed_while_it_wrote_can_be_taken_up(claims: Claims) -> None:
    file = Path(claims.state, "a", "claim-1")
    file.parent.mkdir(parents=True)
    file.write_text('{"owner": "x", "unt')
    (file.parent / ".claim-2.partial-0").write_text("{")
    assert _claim(claims, "a")
    assert len(list(list_below(join(claims.state, "a")))) == 3
