"""Each command of README, CONTRIBUTING.md and docs/ is run as it stands there, or checked.

`CHECKED` lists what is not run, with the reason and with what is checked in place of a run.
All other commands are run, each block's in a folder of its own that holds what the pages
call DIR, FILE.npz and so on, against a Kubeflow and a store on loopback. So a new command
that is neither runs nor stands in the table fails.
"""

import argparse
import ast
import fnmatch
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from unittest.mock import MagicMock

import click
import pytest
import yaml
from tests.conformance.kfp_server import KfpServer
from tests.conformance.kfp_workflow import Went, Workflow
from tests.docs.markdown import PAGES, ROOT, Block, blocks, inline
from tests.pipelines.conftest import Paring

from paring.artifacts import Report, SelectedModel, Selection
from paring.catalog import find
from paring.storage import exists, filesystem, write_text
from paring_pipelines.cli.main import paring as cli
from paring_pipelines.kubeflow.types import SCHEDULE_MARK

BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


# What is checked of a command that is not run. Each gets its words without variables.


def parse_paring(words: Sequence[str]) -> None:
    """The command line takes it, and a step its parameters' values."""
    assert words[0].rpartition("/")[2] == "paring"
    group: click.Command = cli
    context = group.make_context("paring", list(words[1:]))
    while isinstance(group, click.Group):
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        assert name is not None
        context = command.make_context(name, rest, parent=context)
        group = command
    if words[1] != "step":
        return
    step, given = find(words[2]), context.params
    step.parse_parameters(
        {name: given[name] for name in step.parameters if given[name] is not None}
    )
    for name, spec in step.inputs.items():
        assert given[name] or spec.optional, f"--{name} is missing"
    for name in step.outputs:
        assert given[name], f"--{name} is missing"


def print_make(words: Sequence[str]) -> None:
    """Make knows the target, and what it would run is valid for a shell."""
    done = subprocess.run(
        [*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_syntax(["bash", "-c", done.stdout])


class _Heavy(MetaPathFinder, Loader):
    """Stands in for libraries that take long to import, which no parser needs."""

    names = frozenset({"keras", "tensorflow", "tensorflow_model_optimization", "tf_keras", "tfx"})

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        result = name.partition(".")[0] in self.names or name == "paring.adapters.tfx"
        return ModuleSpec(name, self, is_package=True) if result else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        stand_in = MagicMock(__path__=[], __spec__=spec)
        return cast("ModuleType", stand_in)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to do."""


def parse_script(words: Sequence[str]) -> None:
    """The script's own parser takes the arguments."""
    assert words[0] == ".venv/bin/python"
    script = ROOT / words[1]
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self: argparse.ArgumentParser) -> None:
        parse(self)
        os._exit(0)

    # A process of its own, so that no stand-in stays.
    child = os.fork()
    if child == 0:
        try:
            sys.meta_path.insert(0, _Heavy())
            argparse.ArgumentParser.parse_args = parse_and_end
            sys.path.insert(0, str(script.parent))
            sys.argv = list(words[1:])
            runpy.run_path(str(script), run_name="__main__")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def parse_pytest(words: Sequence[str]) -> None:
    """The files are there, and so are the tests and marks that it chooses by."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("places", nargs="*", default=["tests"])
    parser.add_argument("-k", default="")
    parser.add_argument("-m", default="")
    parser.add_argument("-s", action="store_true")
    given = parser.parse_args(list(words[1:]))
    marks = {
        marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
    }
    assert set(re.findall(r"\w+", given.m)) - {"not", "and", "or"} <= marks
    for place in given.places:
        assert (ROOT / place).exists(), place
        if given.k:
            tree = ast.parse((ROOT / place).read_text())
            names = [item.name for item in tree.body if isinstance(item, ast.FunctionDef)]
            assert [item for item in names if given.k in item], f"no test of {place} has {given.k}"


def parse_kubectl(words: Sequence[str]) -> None:
    """Kubectl knows the command and each flag, and a folder that it applies can be built."""
    # Flags are read in their order, so that an unknown one comes before the help.
    done = subprocess.run(
        [BIN / "kubectl", *words[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"kubectl {words[1]}" in done.stdout
    for flag, value in pairwise(words):
        if flag == "-k":
            subprocess.run(
                [BIN / "kubectl", "kustomize", value], cwd=ROOT, capture_output=True, check=True
            )


def parse_pip(words: Sequence[str]) -> None:
    """The extras are declared."""
    assert list(words[1:-1]) == ["install"]
    matched = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[-1])
    assert matched, words
    assert set(matched[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def check_syntax(words: Sequence[str]) -> None:
    """A shell can read it."""
    text = words[-1] if list(words[:2]) == ["bash", "-c"] else shlex.join(words)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CHECKED: list[tuple[str, Callable[[Sequence[str]], None], str]] = [
    ("make setup*", print_make, "makes .venv by downloads; CI runs it first"),
    ("make demo", print_make, "minutes; tests/pipelines/test_demo.py runs the demo"),
    ("make check", print_make, "CI runs it"),
    ("make test", print_make, "would run this test"),
    ("make format", print_make, "rewrites the code"),
    ("make test-cluster", print_make, "starts a Kubernetes; CI runs it after make test"),
    ("make test-images", print_make, "builds three images, of several GB each"),
    ("make test-engines", print_make, "starts Flink and Spark; CI runs it after make test"),
    ("make gpu-test", print_make, "needs an NVIDIA GPU"),
    ("*paring run *", parse_paring, "minutes; tests/pipelines runs it on small models"),
    ("*paring advise *", parse_paring, "profiles a model; tests/pipelines/advice runs it"),
    ("*paring step *", parse_paring, "trains or converts; tests/components runs each step"),
    ("*paring lineage *", parse_paring, "needs what the commands before it make"),
    ("paring rollback *", parse_paring, "loads models; tests/pipelines/cli/test_serving.py"),
    ("paring watch *", parse_paring, "never ends; tests/pipelines/cli/test_kubeflow.py"),
    (".venv/bin/python -m tests.cluster", check_syntax, "a Kubernetes that never ends"),
    (".venv/bin/python benchmarks/*", parse_script, "minutes to hours"),
    (".venv/bin/python examples/*", parse_script, "minutes; tests of examples run them"),
    (".venv/bin/pytest *", parse_pytest, "minutes, and they are run already"),
    ("pip install *", parse_pip, "downloads packages"),
    ("podman *", check_syntax, "needs podman; tests/images runs it where it can"),
    ("gcloud *", check_syntax, "needs Google's tool and a project that pays"),
    ("tensorflow_model_server *", check_syntax, "needs TensorFlow Serving, an image of its own"),
    ("kubectl create *", parse_kubectl, "needs a cluster"),
    ("kubectl apply *", parse_kubectl, "needs a cluster"),
    ("kubectl logs *", parse_kubectl, "needs a cluster"),
]
"""Patterns of commands that are not run; what is checked; why they are not run."""

NO_COMMANDS = {
    ("CONTRIBUTING.md", "components/paring/"): "a tree of folders",
    ("docs/gpu.md", "gpu-test: there is no NVIDIA GPU"): "an error",
    ("docs/numeric-core.md", "source's signature:"): "a drawing",
    ("docs/runs.md", "paring-optimize-"): "what a command prints",
    ("docs/steps/check_tpu.md", "✓"): "what a step prints",
    ("docs/steps/distill.md", "# students.py"): "Python",
    ("docs/steps/evaluate.md", "def dice("): "Python",
    ("docs/steps/import_examples.md", "FILE.npz "): "forms of examples",
    ("docs/steps/import_model.md", "Format-Serving/"): "a tree of files",
    ("docs/steps/push.md", "serving/digits/1/"): "a tree of files",
    ("docs/steps/split_model.md", "policy = "): "Python",
    ("docs/tpu.md", "error: XLA can't compile"): "an error",
}
"""Page and beginning of blocks that hold no commands; what they are."""

LISTINGS = {
    ("docs/command-line.md", "paring run  "),
    ("docs/runs.md", "paring status  "),
    ("docs/triggers.md", "paring submit  "),
}
"""Page and beginning of blocks that say in a line what each command does."""


def _key(block: Block, table: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    return next(
        (item for item in table if block.page == item[0] and block.first.startswith(item[1])), None
    )


ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [item for item in ALL if not _key(item, [*NO_COMMANDS, *LISTINGS])]


def _checked(command: str) -> tuple[str, Callable[[Sequence[str]], None], str] | None:
    text = " ".join(_words(command)[1])
    return next((item for item in CHECKED if fnmatch.fnmatchcase(text, item[0])), None)


def _words(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables before a command, and its words."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    variables: dict[str, str] = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    return variables, words


@pytest.fixture
def scene(
    tmp_path: Path,
    server: KfpServer,
    optimizing: Path,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A folder with what the pages name, a Kubeflow with a run RUN, and stores."""
    folder = tmp_path / "checkout"
    (folder / "components").mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "components/Dockerfile",
        "components/build-images.sh",
    ):
        shutil.copy(ROOT / name, folder / name)
    for name in ("LICENSE", "README.md", "components/paring", "k8s", "pipelines", "requirements"):
        (folder / name).symlink_to(ROOT / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(ROOT / "tests" / "images" / "docker.sh", tools / "docker")
    (tools / "kubectl").symlink_to(BIN / "kubectl")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    # What make passes on to those that it starts, should this be run by it.
    for name in ("MAKEFLAGS", "MAKELEVEL", "VERSION", "REGISTRY", "BASE", "TARGETS"):
        monkeypatch.delenv(name, raising=False)

    shutil.copy(ROOT / "tests" / "golden" / "optimize.yaml", folder / "pipeline.yaml")
    for name in ("DIR", "DESTINATION/1", "serving/digits/1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "saved_model.pb").write_bytes(b"graph")

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # The bucket of Kubeflow's default root.
    if not exists("s3://mlpipeline"):
        filesystem("s3://mlpipeline").mkdir("mlpipeline")
    for name in ("models/digits/3/saved_model.pb", "models/digits/live/saved_model.pb"):
        write_text(f"s3://mlpipeline/{name}", "bytes")
    write_text("s3://mlpipeline/data/digits.npz", "bytes")

    monkeypatch.setenv("KFP_ENDPOINT", server.url)
    monkeypatch.setenv("PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS", ""))
    _leave_run(server, optimizing, tmp_path / "root")
    monkeypatch.chdir(folder)
    yield folder
    assert server.violations == []


def _leave_run(server: KfpServer, package: Path, root: Path) -> None:
    """A run of the name RUN that has succeeded, what it left, and a schedule `nightly`."""
    spec = yaml.safe_load(package.read_text())
    run: dict[str, Any] = {
        "run_id": "4b5f7d1e-0000-4000-8000-000000000001",
        "display_name": "RUN",
        "state": "RUNNING",
        "created_at": "2026-11-28T00:00:00Z",
        "pipeline_spec": spec,
        "runtime_config": {"pipeline_root": str(root)},
    }
    server.store.add("run", run, name="RUN")
    start = datetime.fromisoformat(run["created_at"])
    server.workflows[run["run_id"]] = Workflow("run", spec, start)
    # Its benchmark had a first attempt, whose log the pages ask for.
    server.play(run["run_id"], {"benchmark-float32": Went(attempts=2, log="b\n", earlier="a\n")})
    place = root / spec["pipelineInfo"]["name"] / run["run_id"]
    for artifact, file in (
        (SelectedModel(place / "select" / "selected"), "model.tflite"),
        (Selection(place / "select" / "selection"), "selection.json"),
        (Report(place / "report" / "report"), "report.html"),
    ):
        artifact.path.mkdir(parents=True)
        (artifact.path / file).write_text("text")
        artifact.save()
    schedule = {
        "recurring_run_id": "4b5f7d1e-0000-4000-8000-000000000002",
        "display_name": "nightly",
        "description": f"{SCHEDULE_MARK}0",
        "status": "ENABLED",
        "created_at": run["created_at"],
    }
    server.store.add("schedule", schedule, name="nightly")


def _run(words: list[str], paring: Paring, server: KfpServer) -> None:
    # The placeholders that nothing on a disk can stand for.
    words = [
        server.url
        if word == "URL"
        else word.replace("REGISTRY", "registry.example").replace("DIGEST", "0" * 64)
        for word in words
    ]
    if words[0].rpartition("/")[2] == "paring":
        code, shown, said = paring(*words[1:])
        assert code == 0, f"{shown}\n{said}"
        return
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", COMMANDS, ids=lambda item: f"{item.page}:{item.line}")
def test_each_command_runs_as_it_stands(
    block: Block, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in block.commands():
        variables, words = _words(command)
        assert words[0] in (".venv/bin/paring", "paring") or "paring" not in words[0]
        row = _checked(command)
        if row is not None:
            row[1](words)
            assert all(json.loads(item) for name, item in variables.items() if name == "TF_CONFIG")
            continue
        request.getfixturevalue("scene")
        assert variables == {}
        _run(words, request.getfixturevalue("paring"), request.getfixturevalue("server"))


def test_each_row_of_the_tables_is_of_use() -> None:
    commands = [command for block in COMMANDS for command in block.commands()]
    used = {row[0] for command in commands if (row := _checked(command))}
    assert {row[0] for row in CHECKED} - used == set()
    result = {_key(item, [*NO_COMMANDS, *LISTINGS]) for item in ALL}
    assert {*NO_COMMANDS, *LISTINGS} - result == set()


def test_the_listings_name_each_command_there_is() -> None:
    listed = {
        name
        for block in ALL
        if _key(block, list(LISTINGS))
        for line in block.text.splitlines()
        if line.startswith("paring ")
        for name in re.match(r"paring ((?:\w+, )*\w+)", line)[1].split(", ")
    }
    assert listed == set(cli.commands)


ELSEWHERE = {"--help", "--debug", "--log-format"}
"""Options that all commands take."""


@pytest.mark.parametrize("page", PAGES, ids=lambda item: str(item.relative_to(ROOT)))
def test_commands_in_prose_name_commands_and_options_that_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in inline(page):
        words = text.split()
        if words[0] == "make" and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            assert words[1] in targets, text
        if words[0] not in ("paring", ".venv/bin/paring"):
            continue
        command: click.Command = cli
        names = [
            item
            for before, item in pairwise(words)
            if before != "--log-format" and re.fullmatch(r"[a-z_]+", item)
        ]
        while isinstance(command, click.Group) and names:
            result = command.get_command(click.Context(command), names.pop(0))
            assert result is not None, text
            command = result
        known = {option for item in command.params for option in (*item.opts, *item.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
        if not isinstance(command, click.Group):
            assert given - known - ELSEWHERE == set(), text


def test_a_command_that_is_neither_run_nor_listed_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text\n\n    helm install paring\n\n1. Item\n\n       paring plan --nonsense\n")
    result = [command for block in _blocks_of(page) for command in block.commands()]
    assert result == ["helm install paring", "paring plan --nonsense"]
    assert [_checked(item) for item in result] == [None, None]
    with pytest.raises(FileNotFoundError):
        _run(result[0].split(), lambda *_: (0, "", ""), None)
    with pytest.raises(click.NoSuchOption):
        parse_paring(result[1].split())


def _blocks_of(page: Path) -> list[Block]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.docs.markdown.ROOT", page.parent)
        return list(blocks(page))


@pytest.mark.parametrize(
    ("check", "command"),
    [
        (parse_paring, "paring run --model DIR --examples FILE --target tablet"),
        (parse_paring, "paring run --examples FILE"),
        (parse_paring, "paring step prune --model DIR --examples FILE --pruned OUT --sparsity 2"),
        (parse_paring, "paring step prune --model DIR --examples FILE"),
        (print_make, "make everything"),
        (parse_script, ".venv/bin/python benchmarks/overhead.py --repeats two"),
        (parse_pytest, ".venv/bin/pytest tests/absent.py"),
        (parse_pytest, ".venv/bin/pytest -m fast"),
        (parse_kubectl, "kubectl apply --serverside -k k8s/overlays/bare"),
        (parse_pip, "pip install '.[azure]'"),
        (check_syntax, "bash -c 'if true'"),
    ],
)
def test_the_checks_find_what_is_wrong(
    check: Callable[[Sequence[str]], None], command: str
) -> None:
    with pytest.raises((Exception, SystemExit)):
        check(shlex.split(command))
