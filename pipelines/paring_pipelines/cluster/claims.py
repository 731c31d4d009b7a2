"""Who works on what, where several may: claims in a store, each by an atomic create.

A claim is an object `STATE/KEY/claim-1`, which one alone can create. It says until when
it holds. Whoever finds it run out creates `claim-2`, which again one alone can; no claim
is ever removed, so that nobody is misled by an old listing. What is done gets an object
`STATE/KEY/run`, and stays done.

A claim runs out when its holder was killed. It must not run out while a request of the
holder may still be carried out; see `Claim.check`.
"""

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from paring.errors import ParingError
from paring.storage import create, is_remote, join, list_below, local_path, read_text, write_text

T = TypeVar("T")

_DONE = "run"


class ClaimSpentError(ParingError):
    """A claim has too little time left to begin something under it."""


@dataclass(frozen=True)
class Standing:
    """What is known of a key.

    Attributes:
        done: Whether its work is done.
        claims: How many claims there have been.
    """

    done: bool = False
    claims: int = 0


@dataclass(frozen=True)
class Claim:
    """One key, ours for a while.

    Attributes:
        uri: The claim's object.
        until: When it runs out, in seconds since 1970.
        margin: Seconds that must be left to begin something.
    """

    uri: str
    until: float
    margin: float

    def check(self) -> None:
        """Go on, if what is begun now surely ends before the claim runs out.

        Raises:
            ClaimSpentError: It may not.
        """
        left = self.until - time.time()
        if left < self.margin:
            raise ClaimSpentError(
                f"the claim {self.uri} is about to run out",
                received=f"{left:.1f} s left",
                remedy="try again when it has; what was begun under it is found then",
            )


class Claims:
    """All claims below one place of a store.

    Attributes:
        state: The place, a path or URI.
        lease: Seconds that a claim holds.
        margin: Seconds that must be left of it to begin something; a request to Kubeflow,
            and as long again until it surely is not carried out any more.
    """

    def __init__(self, state: str, lease: float, margin: float) -> None:
        self.state = state
        self.lease = lease
        self.margin = margin

    def standings(self) -> dict[str, Standing]:
        """What is known of each key, by one listing.

        Raises:
            StorageError: The store can't be read.
        """
        root = self.state.rstrip("/") if is_remote(self.state) else str(local_path(self.state))
        found: dict[str, Standing] = {}
        for entry in list_below(self.state):
            matched = re.fullmatch(r"/(\w+)/(?:claim-(\d+)|run)", entry.uri.removeprefix(root))
            # Anything else is a file that is being written.
            if matched is None:
                continue
            key, number = matched.groups()
            before = found.get(key, Standing())
            found[key] = Standing(
                before.done or number is None, max(before.claims, int(number or 0))
            )
        return found

    def claim(self, key: str, standing: Standing = Standing()) -> Claim | None:
        """Make `key` ours; None while it is another's.

        Args:
            key: Letters, digits and underscores.
            standing: What `standings` said of it. Where it is out of date, the claim
                fails, and can be tried again.

        Raises:
            OutputError, StorageError: The store can't be read or written.
        """
        if standing.claims:
            before = _read(self._claim_uri(key, standing.claims))
            if float(before.get("until", 0.0)) > time.time():
                return None
        uri = self._claim_uri(key, standing.claims + 1)
        until = time.time() + self.lease
        mine = {
            "owner": f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}",
            "until": until,
        }
        # The answer to a create may get lost, and the next attempt finds what it made.
        if not create(uri, json.dumps(mine)) and _read(uri) != mine:
            return None
        return Claim(uri, until, self.margin)

    def hold(self, claim: Claim, work: Callable[[Callable[[], None]], T]) -> T:
        """Do `work`; where it fails before it has begun anything, give the claim back.

        What has been begun may yet be carried out, whatever came of it here, and only the
        claim's end is sure to be late enough.

        Args:
            claim: Ours.
            work: Calls what it is given right before it begins something.

        Raises:
            ClaimSpentError: There was too little time left to begin.
            ParingError: What `work` raises.
        """
        begun = False

        def begin() -> None:
            nonlocal begun
            claim.check()
            begun = True

        try:
            return work(begin)
        except ParingError:
            if not begun:
                write_text(claim.uri, json.dumps({"until": 0.0}))
            raise

    def finish(self, key: str, told: Mapping[str, Any]) -> None:
        """Say for good that the work on `key` is done, and what came of it."""
        create(join(self.state, key, _DONE), json.dumps(dict(told), indent=2) + "\n")

    def _claim_uri(self, key: str, number: int) -> str:
        return join(self.state, key, f"claim-{number}")


def _read(uri: str) -> dict[str, Any]:
    """A claim's content; nothing for one that was cut off when its writer was killed."""
    try:
        found = json.loads(read_text(uri))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
