"""The commands in a page of documentation."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_SHELLS = ("", "sh", "bash", "shell", "console")
"""Languages of fenced blocks that hold commands; an indented block has none."""


@dataclass(frozen=True)
class Block:
    """A code block that no language or format says is anything but commands.

    Attributes:
        page: The page's path below the repository.
        line: Of the block's first line.
        text: Without its indentation.
    """

    page: str
    line: int
    text: str

    @property
    def first(self) -> str:
        """The first line."""
        return self.text.splitlines()[0].strip()

    def commands(self) -> list[str]:
        """Each command, with what it goes on with on further lines.

        Raises:
            ValueError: A quote is not closed.
        """
        result: list[str] = []
        pending = ""
        for line in self.text.splitlines():
            pending = f"{pending}\n{line}" if pending else line
            if pending.endswith("\\"):
                continue
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:
                continue
            if words:
                result.append(pending)
            pending = ""
        if pending:
            raise ValueError(f"{self.page}:{self.line}: this command does not end: {pending}")
        return result


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that may hold commands: not Python, TOML or JSON."""
    name = str(page.relative_to(ROOT))
    for line, language, text in _code(page.read_text().splitlines()):
        if language in _SHELLS and text.strip() and not _is_data(text):
            yield Block(name, line, text)


def inline(page: Path) -> Iterator[str]:
    """Yield the text between single backticks in a page's prose."""
    lines = page.read_text().splitlines()
    for line, _, text in _code(lines):
        for number in range(line - 1, line - 1 + len(text.splitlines())):
            lines[number] = ""
    for result in re.findall(r"(?<!`)`([^`]+)`(?!`)", "\n".join(lines)):
        yield " ".join(result.split())


def _code(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """Number of the first line, language and text of each code block."""
    number = 0
    # The indentation of the list item that a line belongs to.
    base = 0
    after_blank = True
    while number < len(lines):
        line = lines[number]
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent < base:
            base = 0
        item = re.match(r"\s*(?:\d+\.|[-*])\s+", line)
        if fence := re.match(r"\s*```(\w*)", line):
            start = number + 1
            number = start
            while not lines[number].strip().startswith("```"):
                number += 1
            text = "\n".join(entry[indent:] for entry in lines[start:number])
            yield start + 1, fence[1], text
        elif line.strip() and after_blank and indent >= base + 4:
            start = number
            while number < len(lines) and (
                not lines[number].strip() or lines[number].startswith(" " * (base + 4))
            ):
                number += 1
            text = "\n".join(entry[base + 4 :] for entry in lines[start:number]).rstrip()
            yield start + 1, "", text
            after_blank = True
            continue
        elif item and indent < base + 4:
            base = len(item[0])
        after_blank = not line.strip()
        number += 1


def _is_data(text: str) -> bool:
    for read in (tomllib.loads, json.loads):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return False
