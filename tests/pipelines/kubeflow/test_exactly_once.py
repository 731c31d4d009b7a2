"""Exactly one run for each output, however often those that submit are killed."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.conformance import kill_harness
from tests.conformance.kfp_faults import Faults
from tests.conformance.kfp_server import KfpServer

from paring_pipelines.kubeflow.package import Package

ROOT = Path(__file__).parents[3]

KILLS = 200
SEED = 20261125
TIMEOUT = 0.8
"""Seconds that a client waits; a server that is kept from its work for as long again does
what nobody counts on any more."""

# The rarer ones take longer than the client waits.
RATES = {
    "429": 0.03,
    "500": 0.02,
    "500 after": 0.02,
    "503": 0.02,
    "taken": 0.02,
    "dropped": 0.01,
    "dropped after": 0.01,
    "cut": 0.01,
    "stall": 0.002,
    "stall after": 0.002,
    "late": 0.002,
}


def _run(server: KfpServer, package: Package, folder: Path, timeout: float) -> Any:
    folder.mkdir()
    given = {
        "url": server.url,
        "package": str(package.path),
        "folder": str(folder),
        "timeout": timeout,
        "seed": SEED,
        "kills": KILLS,
    }
    done = subprocess.run(
        [sys.executable, "-m", kill_harness.__name__],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_each_output_has_one_run_whenever_those_that_submit_are_killed(
    package: Package, tmp_path: Path, record_property: Any
) -> None:
    for timeout in (TIMEOUT, 2 * TIMEOUT):
        faults = Faults(RATES, SEED)
        folder = tmp_path / f"{timeout:g}"
        folder.mkdir()
        server = KfpServer(
            folder / "kfp.sqlite", faults, stall=1.1 * timeout, slowness=0.01 * timeout
        )
        with server:
            result = _run(server, package, folder / "training", timeout)
            server.settled()
            submitted = server.runs()
            assert server.violations == []
        if server.slowest < 2 * timeout:
            break
        # This machine was busy with other things, and the protocol rests on a Kubeflow that
        # carries a request out within twice the timeout or not at all.
    runs = Counter(run["runtime_config"]["parameters"]["model_uri"] for run in submitted)
    there = {run["run_id"] for run in submitted}
    finished = result["outputs"] + result["models"]
    count = (
        f"{result['kills']} kills, {result['stops']} stopped for longer than their leases,"
        f" {result['ended']} ended by themselves, {result['changes']} changes of examples or"
        f" package, {result['odd']} odd claims; {len(finished)} outputs, {runs.total()} runs,"
        f" {result['found_again']} of them found again by a later watcher;"
        f" {len(result['printed'])} ids printed, {len(set(result['printed']) - there)} of them of"
        f" runs that are gone; faults {faults.met}; timeout {timeout:g} s, slowest request"
        f" {server.slowest:.2f} s"
    )
    record_property("exactly_once", count)
    sys.stdout.write(f"{count}\n")
    assert result["kills"] >= KILLS, count
    assert min(result["stops"], result["changes"], result["odd"]) >= 5, count
    twice = [
        (run["created_at"], run["display_name"], run["runtime_config"])
        for run in submitted
        if runs[run["runtime_config"]["parameters"]["model_uri"]] > 1
    ]
    assert runs == Counter(finished), (count, twice)
    assert set(result["printed"]) <= there, count
