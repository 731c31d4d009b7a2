"""Sets that keep the order of insertion, against Python's own."""

import pytest

from paring.converters.onnx.ordered_sets import OrderedSet


def test_items_come_in_the_order_in_which_they_were_added() -> None:
    made = OrderedSet("hello")
    made.add("a")
    made.update("zh", ["b"])
    made.remove("e")
    assert list(made) == ["h", "l", "o", "a", "z", "b"]
    assert made.pop() == "h"
    assert list(made.union(["y", "o"])) == ["l", "o", "a", "z", "b", "y"]


def test_operations_give_what_those_of_a_set_give() -> None:
    item, other = "tensor", "neural"
    made, items = OrderedSet(item), set(item)
    assert set(made.union(other)) == items | set(other)
    assert set(made.intersection(other)) == items & set(other)
    assert set(made - OrderedSet(other)) == items - set(other)
    assert made == items
    assert not made.issubset(other)
    assert made.intersection(other).issubset(OrderedSet(other))
    with pytest.raises(KeyError):
        made.remove("q")
