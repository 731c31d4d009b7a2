"""Sums of doubles without rounding, so that no order of additions changes a bit of them.

A double is a whole number of 2**-1074, and so is a sum of doubles. It is held as a number in
base 2**32, of as many digits as its terms need (U. Kulisch, "Computer Arithmetic and Validity",
2nd edition, 2013, chapter 8, has such a complete accumulator in hardware).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from paring.errors import UnsupportedError

Values = NDArray[np.float64]

_BITS = 32
_BASE = 2.0**_BITS
_MOST_TERMS = 2**30
"""Digits below 2**32 that an int64 takes in without a carry, with one bit to spare."""
_BLOCK = 2**15
"""Terms that are split at once: they stay in the processor's cache."""
_HIGHEST_PLACE = 31
"""The highest digit of a double."""
_SPLITTER = 2.0**27 + 1


class ExactSums:
    """An array of exact sums of doubles.

    Args:
        shape: Shape of the array.
    """

    def __init__(self, *shape: int) -> None:
        # Digit i counts 2**(32 * (lowest + i)); sums are those of digits times their values.
        self._digits = np.zeros((0, *shape), np.int64)
        self._lowest = 0
        self._terms = 0

    @classmethod
    def of(cls, values: Values) -> "ExactSums":
        """Return sums of one term each."""
        result = cls(*values.shape)
        result.add(values[np.newaxis])
        return result

    @classmethod
    def concatenate(cls, items: Sequence["ExactSums"]) -> "ExactSums":
        """Return all sums of `items`, one behind the other along the last axis."""
        result = cls(*items[0].shape)
        for item in items:
            item._carry()
        result._lowest = min(item._lowest for item in items)
        end = max(item._lowest + len(item._digits) for item in items)
        for item in items:
            item._widen(result._lowest, end)
        result._digits = np.concatenate([item._digits for item in items], axis=-1)
        result._terms = 1
        return result

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._digits.shape[1:]

    def add(self, terms: Values) -> None:
        """Add float64 [terms, *shape].

        Raises:
            UnsupportedError: A term is NaN or infinite.
        """
        rows = terms.reshape(len(terms), math.prod(self.shape))
        height = max(1, min(len(rows), _BLOCK))
        width = max(1, _BLOCK // height)
        sums: dict[int, NDArray[np.int64]] = {}
        for top in range(0, len(rows), height):
            for left in range(0, rows.shape[1], width):
                for place, digits in _split(rows[top : top + height, left : left + width]):
                    if place not in sums:
                        sums[place] = np.zeros(rows.shape[1], np.int64)
                    # Whole numbers below 2**53, which a double adds exactly.
                    sums[place][left : left + width] += digits.sum(axis=0).astype(np.int64)
        if sums:
            self._make_room(min(sums), max(sums) + 1, len(rows))
            for place, item in sums.items():
                self._digits[place - self._lowest] += item.reshape(self.shape)

    def merge(self, other: "ExactSums") -> None:
        """Add all terms of `other`, sums of the same shape."""
        if not len(other._digits):
            return
        end = other._lowest + len(other._digits)
        self._make_room(other._lowest, end, other._terms)
        self._digits[other._lowest - self._lowest : end - self._lowest] += other._digits

    def grouped(self, groups: NDArray[np.intp], count: int) -> "ExactSums":
        """Return the sums over groups of the last axis.

        Args:
            groups: The group of each place of the last axis, 0 to `count` - 1.
            count: Length of the last axis of the result.
        """
        self._carry()
        result = ExactSums(*self.shape[:-1], count)
        result._lowest, result._terms = self._lowest, max(1, len(groups))
        result._digits = np.zeros((len(self._digits), *result.shape), np.int64)
        height = math.prod(self._digits.shape[:-1])
        rows, sums = (
            self._digits.reshape(height, len(groups)),
            result._digits.reshape(height, count),
        )
        for row, into in zip(rows, sums, strict=True):
            # Of so many digits the sum is a whole number that a double holds.
            for start in range(0, len(groups), 2**21):
                part = slice(start, start + 2**21)
                into += np.bincount(groups[part], row[part], count).astype(np.int64)
        return result

    def values(self) -> Values:
        """Return the sums as doubles, exact to within one unit in the last place."""
        self._carry()
        result = np.zeros(self.shape)
        # From the lowest digit on, of which higher ones are far multiples.
        for index, digits in enumerate(self._digits):
            result += np.ldexp(digits.astype(np.float64), _BITS * (self._lowest + index))
        return result

    def integers(self) -> tuple[list[int], int]:
        """Return the exact sums, flattened, as multiples of a power of two, and its exponent."""
        self._carry()
        numbers = [0] * math.prod(self.shape)
        for digits in self._digits[::-1]:
            numbers = [
                (number << _BITS) + digit
                for number, digit in zip(numbers, digits.reshape(-1).tolist(), strict=True)
            ]
        return numbers, _BITS * self._lowest

    def _make_room(self, lowest: int, end: int, terms: int) -> None:
        """Make room for the digits of `lowest` up to before `end`, of sums of so many terms."""
        if self._terms + terms > _MOST_TERMS:
            self._carry()
        self._terms += terms
        self._widen(lowest, end)

    def _widen(self, lowest: int, end: int) -> None:
        """Hold the digits of `lowest` up to before `end` too."""
        if not len(self._digits):
            self._lowest = lowest
        below = max(0, self._lowest - lowest)
        above = max(0, end - self._lowest - len(self._digits))
        if below or above:
            parts = [np.zeros((number, *self.shape), np.int64) for number in (below, above)]
            self._digits = np.concatenate([parts[0], self._digits, parts[1]])
            self._lowest -= below

    def _carry(self) -> None:
        """Bring each digit into -2**31 to 2**31 - 1, which makes them those of the sum alone."""
        if self._terms == 0:
            return
        half, index = 1 << (_BITS - 1), 0
        while index < len(self._digits):
            carry = (self._digits[index] + half) >> _BITS
            if carry.any():
                self._widen(self._lowest, self._lowest + index + 2)
                self._digits[index] -= carry << _BITS
                self._digits[index + 1] += carry
            index += 1
        self._terms = 1


def exact_products(values: Values, factors: Values) -> list[Values]:
    """Return arrays whose sum is values * factors, without rounding.

    By T. J. Dekker, "A floating-point technique for extending the available precision",
    Numerische Mathematik 18, 1971, where the product is far from the ends of the range of a
    double; beyond, the rounded product alone.
    """
    if (factors == 1).all():
        return [values]
    with np.errstate(over="ignore", invalid="ignore"):
        product = values * factors
        if _are_single(values) and _are_single(factors):
            return [product]
        (high, low), (other_high, other_low) = _halves(values), _halves(factors)
        error = high * other_high - product + high * other_low + low * other_high
        error += low * other_low
    error[~np.isfinite(error)] = 0.0
    return [product, error]


def _halves(values: Values) -> tuple[Values, Values]:
    """Return values of 26 bits each that add up to `values`."""
    moved = values * _SPLITTER
    high = moved - (moved - values)
    return high, values - high


def _are_single(values: Values) -> bool:
    """Return whether all values are those of float32, whose products a double holds."""
    return bool((values.astype(np.float32) == values).all())


def _split(terms: Values) -> Iterator[tuple[int, Values]]:
    """Yield the digits of the terms in base 2**32, highest first: the place and the digits.

    Digits are whole numbers below 2**32, with the sign of their term; they are valid until the
    next ones are taken.
    """
    largest, place = _largest(terms), 0
    if not math.isfinite(largest):
        raise UnsupportedError(
            "the values are too large to be compared: their sums or squares exceed a double",
            received=f"{np.count_nonzero(~np.isfinite(terms))} numbers that are NaN or infinite",
            remedy="scale the model's outputs and labels, and look for NaN in the labels",
        )
    # To scale down loses the ends of small terms, to scale up nothing.
    while largest >= _BASE:
        place = (math.frexp(largest)[1] - 1) // _BITS
        digits = np.trunc(terms * _BASE**-place)
        yield place, digits
        terms = terms - digits * _BASE**place
        largest = _largest(terms)
    if largest == 0:
        return
    place = (math.frexp(largest)[1] - 1) // _BITS
    rest = terms * _BASE ** min(-place, _HIGHEST_PLACE)
    rest *= _BASE ** max(0, -place - _HIGHEST_PLACE)
    digits = np.empty_like(rest)
    while rest.any():
        np.trunc(rest, out=digits)
        yield place, digits
        rest -= digits
        rest *= _BASE
        place -= 1


def _largest(terms: Values) -> float:
    return float(np.abs(terms).max(initial=0.0))
