"""Checker of the wording of docstrings, messages, comments, variables and pages.

CONTRIBUTING.md, "Wording", has the rules. `make check` runs it as
`python -m tests.docs.wording`: it prints a line for each fault, and exits with 1 if there is any.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (
    "components/**/*.py",
    "pipelines/**/*.py",
    "benchmarks/*.py",
    "examples/*.py",
    "tests/**/*.py",
)
PAGES = ("*.md", "docs/**/*.md", "k8s/**/*.toml", "components/**/*.j2", "pipelines/**/*.toml")
# These two quote the words that they are about.
EXEMPT = {"tests/docs/wording.py", "tests/docs/test_wording.py"}

# A summary is an imperative or a noun phrase, so it begins with none of these.
OPENINGS = {"What", "Who", "Whether", "Where", "Which", "How", "Of"}

# Pattern of a phrase, and what to write in its place.
PHRASES = {
    r"anew": "again",
    r"told": "given, or reported",
    r"heed(s|ed|ing)?": "handle",
    r"(hang|hangs|hung) on": "depend on",
    r"(go|goes|going|went) by": "use, or is ranked by",
    r"(come|comes|coming|came) to": "result in, or equal",
    r"may lie": "can be",
    r"(is|are) given as": "is",
    r"asked for": "requested",
}

# They say nothing of the value.
VARIABLES = {"one", "found", "told"}


@dataclass(frozen=True)
class Fault:
    """A place in a file whose wording breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def check_source(path: str, text: str) -> Iterator[Fault]:
    """Yield the faults in the docstrings, variables, strings and comments of a Python file.

    Args:
        path: Path of the file, for the faults.
        text: Source code of the file.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            opening = re.split(r"\W", summary, maxsplit=1)[0]
            if opening in OPENINGS:
                line = node.body[0].lineno
                yield Fault(path, line, f"a summary begins with '{opening}': {summary}")
        elif isinstance(node, ast.arg | ast.Name):
            name = node.arg if isinstance(node, ast.arg) else node.id
            bound = isinstance(node, ast.arg) or isinstance(node.ctx, ast.Store)
            if bound and name in VARIABLES:
                yield Fault(path, node.lineno, f"a variable is called '{name}': say what it holds")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from check_page(path, node.value, node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from check_page(path, token.string, token.start[0])


def check_page(path: str, text: str, first_line: int = 1) -> Iterator[Fault]:
    """Yield the faults in a page of prose. Code between single backticks is exempt.

    Args:
        path: Path of the file, for the faults.
        text: The prose.
        first_line: Line of the file in which it begins.
    """
    prose = re.sub(r"`[^`\n]+`", lambda code: "`" * len(code.group()), text)
    for phrase, better in PHRASES.items():
        # A phrase may be broken across lines.
        pattern = rf"\b{phrase}\b".replace(" ", r"\s+")
        for match in re.finditer(pattern, prose, re.IGNORECASE):
            line = first_line + text[: match.start()].count("\n")
            yield Fault(path, line, f"'{' '.join(match.group().split())}': write {better}")


def check_tree(root: Path = ROOT) -> list[Fault]:
    """Return the faults of all sources and pages below a folder, by path and line."""
    faults: list[Fault] = []
    for pattern in (*SOURCES, *PAGES):
        for path in root.glob(pattern):
            name = path.relative_to(root).as_posix()
            if name not in EXEMPT:
                check = check_source if path.suffix == ".py" else check_page
                faults += check(name, path.read_text())
    return sorted(faults, key=lambda fault: (fault.path, fault.line))


if __name__ == "__main__":
    every = check_tree()
    print(*every, sep="\n", end="\n" if every else "")
    sys.exit(bool(every))
