"""Claims: of several that want one, one has it, until it has run out."""

import threading
import time
from pathlib import Path

import pytest

from paring.storage import join, list_below
from paring_pipelines.cluster.claims import Claim, Claims, ClaimSpentError, Standing


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(str(tmp_path / "claims"), lease=60.0, margin=10.0)


def _claim(claims: Claims, key: str) -> Claim | None:
    return claims.claim(key, claims.standings().get(key, Standing()))


def test_one_of_many_gets_it(claims: Claims) -> None:
    got: list[Claim | None] = []
    start = threading.Barrier(12)

    def go() -> None:
        start.wait()
        got.append(claims.claim("a"))

    threads = [threading.Thread(target=go) for _ in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sum(one is not None for one in got) == 1


def test_it_is_anothers_until_it_runs_out(claims: Claims) -> None:
    brief = Claims(claims.state, lease=0.05, margin=0.01)
    assert _claim(brief, "a")
    assert _claim(claims, "a") is None
    time.sleep(0.06)
    assert _claim(claims, "a")
    assert _claim(brief, "a") is None
    assert claims.standings() == {"a": Standing(done=False, claims=2)}


def test_of_many_that_take_one_up_again_one_gets_it(claims: Claims) -> None:
    Claims(claims.state, lease=-1.0, margin=0.0).claim("a")
    stale = claims.standings()["a"]
    assert [claims.claim("a", stale) is None for _ in range(3)] == [False, True, True]


def test_what_was_given_back_is_free_at_once(claims: Claims) -> None:
    claim = _claim(claims, "a")
    assert claim is not None
    claims.release(claim)
    assert _claim(claims, "a")


def test_nothing_is_begun_that_might_outlast_it(claims: Claims) -> None:
    claim = _claim(claims, "a")
    assert claim is not None
    claim.check()
    with pytest.raises(ClaimSpentError):
        Claim(claim.uri, time.time() + 9.0, claim.margin).check()


def test_what_is_done_stays_done(claims: Claims) -> None:
    _claim(claims, "a")
    claims.finish("a", {"run": "1"})
    assert claims.standings()["a"].done


def test_a_claim_whose_writer_was_killed_while_it_wrote_can_be_taken_up(claims: Claims) -> None:
    file = Path(claims.state, "a", "claim-1")
    file.parent.mkdir(parents=True)
    file.write_text('{"owner": "x", "unt')
    (file.parent / ".claim-2.partial-0").write_text("{")
    assert _claim(claims, "a")
    assert len(list(list_below(join(claims.state, "a")))) == 3
