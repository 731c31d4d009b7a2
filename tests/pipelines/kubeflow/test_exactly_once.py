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
    "stall": 0.002,
    "stall after": 0.002,
    "late": 0.002,
}


def _run(server: KfpServer, package: Package, folder: Path) -> Any:
    folder.mkdir()
    given = {
        "url": server.url,
        "package": str(package.path),
        "folder": str(folder),
        "timeout": TIMEOUT,
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
def test_each_output_has_one_run_whenever_those_that_submit_are_killed(
    package: Package, tmp_path: Path, record_property: Any
) -> None:
    faults = Faults(RATES, SEED)
    server = KfpServer(
        tmp_path / "kfp.sqlite", faults, stall=1.1 * TIMEOUT, slowness=0.01 * TIMEOUT
    )
    with server:
        told = _run(server, package, tmp_path / "training")
        server.settled()
        runs = Counter(one["runtime_config"]["parameters"]["model_uri"] for one in server.runs())
        there = {one["run_id"] for one in server.runs()}
        assert server.violations == []
    finished = told["outputs"] + told["models"]
    count = (
        f"{told['kills']} kills, {told['stops']} stopped for longer than their leases,"
        f" {told['ended']} ended by themselves, {told['changes']} changes of examples or package,"
        f" {told['odd']} odd claims; {len(finished)} outputs, {runs.total()} runs,"
        f" {told['found_again']} of them found again by a later watcher;"
        f" {len(told['printed'])} ids printed, {len(set(told['printed']) - there)} of them of runs"
        f" that are gone; faults {faults.met}"
    )
    record_property("exactly_once", count)
    sys.stdout.write(f"{count}\n")
    assert told["kills"] >= KILLS, count
    assert min(told["stops"], told["changes"], told["odd"]) >= 5, count
    assert runs == Counter(finished), count
    assert set(told["printed"]) <= there, count
