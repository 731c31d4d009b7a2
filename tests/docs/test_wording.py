from pathlib import Path

import pytest
from tests.docs.wording import OPENINGS, check_page, check_source, check_tree

GOOD = '''"""Signature of a SavedModel, read from its file."""

# Whether it is cached depends on the step.
LIMIT = "path does not exist"


class Signature:
    """Inputs and outputs of a model."""

    @property
    def is_batched(self) -> bool:
        """True if the first axis is open."""

    def find(self, name: str) -> str:
        """Return whether it is an input.

        What follows the first line is free. `asked for` is code.
        """
'''


@pytest.mark.parametrize("opening", sorted(OPENINGS))
@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""{} it is."""\n', 1),
        ('class Some:\n    """{} it is."""\n', 2),
        ('def some():\n    """{} it is.\n\n    More.\n    """\n', 2),
        ('class Some:\n    async def one(self):\n        """{}, it is."""\n', 3),
    ],
)
def test_a_summary_that_begins_with_a_question_word_is_a_fault(
    source: str, line: int, opening: str
) -> None:
    (fault,) = check_source("some.py", source.format(opening))
    assert (fault.line, opening in fault.message) == (line, True)


@pytest.mark.parametrize(
    "source",
    ["one = 1\n", "def some(found):\n    pass\n", "for told in ():\n    pass\n", "lambda one: 1\n"],
)
def test_a_variable_that_says_nothing_of_its_value_is_a_fault(source: str) -> None:
    (fault,) = check_source("some.py", source)
    assert fault.line == 1
    assert "say what it holds" in fault.message


@pytest.mark.parametrize(
    "phrase",
    [
        "anew",
        "Told",
        "heed",
        "is heeded",
        "hangs on",
        "hung on",
        "go by",
        "went by",
        "comes to",
        "came to",
        "may lie",
        "is given as",
        "asked for",
        "asked\nfor",
    ],
)
def test_a_word_that_has_a_better_one_is_a_fault_wherever_it_is_prose(phrase: str) -> None:
    (fault,) = check_page("page.md", f"One.\n\nIt {phrase} it.\n")
    assert (fault.path, fault.line) == ("page.md", 3)
    words = " ".join(phrase.split())
    sources = [
        f'"""Module.\n\nIt {phrase} it.\n"""\n',
        f'raise ValueError(\n    f"{{1}}"\n    "it {words} it")\n',
        f'raise ValueError("it "\n    "{words} it")\n',
        f"x = 1  # it {words} it\n",
    ]
    assert [len(list(check_source("some.py", source))) for source in sources] == [1, 1, 1, 1]


def test_standard_wording_code_and_identifiers_pass() -> None:
    assert not list(check_source("good.py", GOOD))
    assert not list(check_source("names.py", "anew = heed = 1\n"))
    assert not list(
        check_page("page.md", "Words such as `anew` and `asked for`; retold; goes on.\n")
    )


def test_the_tree_is_searched_by_kind_of_file(tmp_path: Path) -> None:
    for name, text in {
        "README.md": "It goes by it.\n",
        "docs/steps/one.md": "Fine.\nIt is made anew.\n",
        "k8s/base/runtime.toml": "# as asked for\n",
        "components/paring/one.py": '"""What it is."""\n',
        "components/paring/templates/one.html.j2": "<p>as told</p>\n",
        "tests/golden/one.yaml": "told\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [(fault.path, fault.line) for fault in check_tree(tmp_path)] == [
        ("README.md", 1),
        ("components/paring/one.py", 1),
        ("components/paring/templates/one.html.j2", 1),
        ("docs/steps/one.md", 2),
        ("k8s/base/runtime.toml", 1),
    ]


def test_this_tree_has_no_faults() -> None:
    assert check_tree() == []
