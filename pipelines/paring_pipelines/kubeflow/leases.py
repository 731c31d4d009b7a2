"""Leases on keys in a store: of several watchers, one works on a key at a time.

A claim is an object `STATE/KEY/claim-1`, which one watcher alone can create. It says until
when it holds, and names the run that its holder is about to start, before that is started.
Whoever finds it expired creates `claim-2`, which again one alone can, and takes over the
names of all runs that earlier holders may have started. No claim is ever deleted, so that
an old listing misleads nobody. The run of a key is recorded in the object `STATE/KEY/run`,
again by an atomic create: what it names is the run of this key for good, whoever else
believed to hold the key.

A claim expires when its holder was killed. It must not expire while a request of the
holder may still be carried out; see `Claim.check`.
"""

import json
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from paring.errors import ParingError, StorageError
from paring.storage import create, is_remote, join, list_below, local_path, read_text, write_text
from paring.system.documents import parse_json

T = TypeVar("T")

_DONE = "run"


class LeaseExpiredError(ParingError):
    """A claim has too little time left to begin something under it."""

    exit_code = 20


@dataclass(frozen=True)
class Standing:
    """The state of a key, as a listing shows it.

    Attributes:
        done: Whether its run is recorded.
        claims: How many claims there have been.
    """

    done: bool = False
    claims: int = 0


@dataclass(frozen=True)
class Claim:
    """A claim on one key that this process holds.

    Attributes:
        uri: The claim's object.
        until: When it expires, in seconds since 1970.
        margin: Seconds that must be left to begin something.
        run: The name of the run that its holder is about to start; "" where it was given
            back before that.
        earlier: The names that holders of earlier claims may have started a run by, the
            oldest first.
    """

    uri: str
    until: float
    margin: float
    run: str
    earlier: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise LeaseExpiredError unless work that begins now ends before the claim expires.

        Raises:
            LeaseExpiredError: It may not.
        """
        left = self.until - time.time()
        if left < self.margin:
            raise LeaseExpiredError(
                f"the claim {self.uri} is about to expire",
                received=f"{left:.1f} s left",
                remedy="try again when it has; what was begun under it is found then",
            )


class Progress:
    """Progress of the work under a claim.

    Attributes:
        claim: The claim.
        begun: Whether something was begun that may yet be carried out.
        absent: Earlier names that have no run, and won't get one: the claims of those who
            intended them have expired.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.begun = False
        self.absent: set[str] = set()

    def begin(self) -> None:
        """Call right before something is begun.

        Raises:
            LeaseExpiredError: There is too little time left.
        """
        self.claim.check()
        self.begun = True


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
        """Return the state of each key, by one listing.

        Raises:
            StorageError: The store can't be read.
        """
        root = self.state.rstrip("/") if is_remote(self.state) else str(local_path(self.state))
        result: dict[str, Standing] = {}
        for entry in list_below(self.state):
            matched = re.fullmatch(r"/(\w+)/(?:claim-(\d+)|run)", entry.uri.removeprefix(root))
            # Anything else is a file that is being written.
            if matched is None:
                continue
            key, number = matched.groups()
            before = result.get(key, Standing())
            result[key] = Standing(
                before.done or number is None, max(before.claims, int(number or 0))
            )
        return result

    def claim(
        self, key: str, run: Callable[[], str], standing: Standing = Standing()
    ) -> Claim | None:
        """Claim `key`; None while another watcher holds it.

        Args:
            key: Letters, digits and underscores.
            run: Returns the name of the run that is to be started; called where the key
                is free.
            standing: What `standings` said of it. Where it is out of date, the claim
                fails, and can be tried again.

        Raises:
            OutputError, StorageError: The store can't be read or written, or the newest
                claim is none that paring wrote.
        """
        earlier: list[str] = []
        if standing.claims:
            before = _read_claim(self._claim_uri(key, standing.claims))
            if before.until > time.time():
                return None
            earlier = [item for item in (*before.earlier, before.run) if item]
        uri = self._claim_uri(key, standing.claims + 1)
        name = run()
        mine = Claim(
            uri,
            time.time() + self.lease,
            self.margin,
            name,
            tuple(dict.fromkeys(earlier)),
        )
        text = _claim_text(mine, uuid.uuid4().hex)
        # The answer to a create may get lost, and the next attempt finds what it made.
        if not create(uri, text) and read_text(uri) != text:
            return None
        return mine

    def hold(self, claim: Claim, work: Callable[["Progress"], T]) -> T:
        """Run `work`, and give the claim back if it fails before it has begun anything.

        What has been begun may yet be carried out, whatever came of it here, and only the
        claim's end is sure to be late enough. What `work` has found out by then is kept:
        without that, a claim with many earlier names might expire each time before all
        of them were looked for.

        Args:
            claim: One that this process holds.
            work: Reports to its argument.

        Raises:
            LeaseExpiredError: There was too little time left to begin.
            ParingError: What `work` raises.
        """
        progress = Progress(claim)
        try:
            return work(progress)
        except ParingError:
            if not progress.begun:
                left = tuple(item for item in claim.earlier if item not in progress.absent)
                # Nobody else writes this object, and who reads it may drop these names
                # at any time, so it does no harm after the claim has expired either.
                given_back = replace(claim, until=0.0, run="", earlier=left)
                write_text(claim.uri, _claim_text(given_back, "given back"))
            raise

    def finish(self, key: str, run: Mapping[str, Any]) -> dict[str, Any]:
        """Record for good which run the key has.

        Args:
            key: The key.
            run: The facts of a run, its id as `run` among them.

        Returns:
            The facts that are recorded: these, or those of another that came first.

        Raises:
            OutputError, StorageError: The store can't be read or written, or holds a
                record that paring did not write.
        """
        uri = join(self.state, key, _DONE)
        text = json.dumps(dict(run), indent=2) + "\n"
        if create(uri, text):
            return dict(run)
        result = _read_object(uri)
        if not isinstance(result.get("run"), str):
            raise _odd(uri, result)
        return result

    def _claim_uri(self, key: str, number: int) -> str:
        return join(self.state, key, f"claim-{number}")


def _claim_text(claim: Claim, token: str) -> str:
    return json.dumps(
        {
            "owner": f"{socket.gethostname()}:{os.getpid()}:{token}",
            "until": claim.until,
            "run": claim.run,
            "earlier": list(claim.earlier),
        }
    )


def _read_claim(uri: str) -> Claim:
    result = _read_object(uri)
    until, run, earlier = (result.get(item) for item in ("until", "run", "earlier"))
    if (
        isinstance(until, bool)
        or not isinstance(until, int | float)
        or not math.isfinite(until)
        or not isinstance(run, str)
        or not isinstance(earlier, list)
        or not all(isinstance(item, str) for item in earlier)
    ):
        raise _odd(uri, result)
    return Claim(uri, float(until), 0.0, run, tuple(earlier))


def _read_object(uri: str) -> dict[str, Any]:
    """Return the JSON object in a small file."""
    text = read_text(uri)
    try:
        result = parse_json(text)
    except ValueError as error:
        raise _odd(uri, text) from error
    if not isinstance(result, dict):
        raise _odd(uri, text)
    return result


def _odd(uri: str, received: object) -> StorageError:
    text = str(received) or "an empty file"
    return StorageError(
        f"{uri} is not as paring writes it",
        received=text if len(text) <= 200 else f"{text[:200]}...",
        remedy="look whether this output has its run, and delete the file if it has none;"
        " other outputs are not affected",
    )
