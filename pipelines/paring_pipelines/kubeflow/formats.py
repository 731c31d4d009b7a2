"""Formats and limits of what Kubernetes takes: names, image references, quantities, numbers."""

import re

from paring.errors import ParameterError

INT32 = 2**31 - 1
"""The largest number in most fields of Kubernetes' API."""

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""The name of a namespace, and each part of another object's name."""

OBJECT_NAME = rf"(?=.{{1,253}}\Z){DNS_LABEL}([.]{DNS_LABEL})*"
"""The name of a Secret, a ServiceAccount and most other objects."""

_HOST_PART = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
# A first part without a dot or a port is a part of the path, but for localhost.
_REGISTRY = (
    rf"(localhost(:[0-9]+)?|{_HOST_PART}([.]{_HOST_PART})+(:[0-9]+)?|{_HOST_PART}:[0-9]+"
    r"|\[[0-9A-Fa-f:.]+\](:[0-9]+)?)"
)
_PATH_PART = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"({_REGISTRY}/)?{_PATH_PART}(/{_PATH_PART})*"
    r"(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?"
    r"(@(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)

IMAGE = "an image as REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST, in small letters"

_UNITS = {
    **{"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18},
    **{f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTPE", 1)},
}


def is_image(text: str) -> bool:
    """Return whether `text` is the reference of a container image."""
    return _IMAGE.fullmatch(text) is not None


def check_image(option: str, text: str) -> None:
    """Refuse what is no reference of an image.

    Raises:
        ParameterError: It is none; the message names the option.
    """
    if not is_image(text):
        raise ParameterError(f"{option}: must be {IMAGE}", received=repr(text), remedy=_PIN)


_PIN = "give the reference that `docker pull` takes; pin it by digest"


def check_namespace(option: str, text: str) -> None:
    """Refuse what is no name of a namespace.

    Raises:
        ParameterError: It is none; the message names the option.
    """
    _check_name(
        option,
        text,
        pattern=DNS_LABEL,
        of="a namespace",
        characters="63 small letters, digits and dashes",
    )


def check_object_name(option: str, text: str) -> None:
    """Refuse what is no name of a Kubernetes object.

    Raises:
        ParameterError: It is none; the message names the option.
    """
    characters = "253 small letters, digits, dashes and dots"
    _check_name(option, text, pattern=OBJECT_NAME, of="a Kubernetes object", characters=characters)


def _check_name(option: str, text: str, *, pattern: str, of: str, characters: str) -> None:
    if not re.fullmatch(pattern, text):
        raise ParameterError(
            f"{option}: must be the name of {of}",
            received=repr(text),
            remedy=f"use at most {characters}",
        )


def quantity(text: str) -> float:
    """Return Kubernetes' text for cores or bytes as a number, such as 0.5 for 500m."""
    number = text.rstrip("imkKMGTPE")
    return float(number) * _UNITS.get(text[len(number) :], 1.0)
