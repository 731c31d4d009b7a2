"""Protocol buffers are read as Google's library reads them, and within limits."""

from typing import Any

import pytest

from paring.models.wire_format import Span, WireFormatError, WireReader, parse_schema

SCHEMA = parse_schema("""
Outer: 1=name:text 2=number:integer 3=inner:Outer 4=many:[Outer] 5=numbers:integers
  6=floats:count:4 7=varints:count:varint 8=texts:count:bytes 9=raw:bytes 10=doubles:count:8
""")


def read(content: bytes) -> dict[str, Any]:
    return dict(WireReader(content, SCHEMA).read("Outer"))


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        size = len(content)
        prefix = b""
        while size > 0x7F:
            prefix += bytes([size & 0x7F | 0x80])
            size >>= 7
        content = b"\x1a" + prefix + bytes([size]) + content
    return content


def test_an_onnx_model_is_read_as_its_own_library_reads_it() -> None:
    import numpy as np
    import onnx

    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = onnx.numpy_helper.from_array(values, "raw")
    typed = onnx.helper.make_tensor("typed", onnx.TensorProto.INT64, [2], [-5, 1 << 40])
    schema = parse_schema("""
TensorProto: 1=dims:integers 2=type:integer 4=float_data:count:4 7=int64_data:count:varint
  8=name:text 9=raw_data:bytes
""")
    content = raw.SerializeToString()
    made = WireReader(content, schema).read("TensorProto")
    assert (made["name"], made["dims"], made["type"]) == ("raw", [2, 3], 1)
    span = made["raw_data"]
    assert content[span.start : span.start + span.size] == values.tobytes()
    made = WireReader(typed.SerializeToString(), schema).read("TensorProto")
    assert (made["dims"], made["int64_data"]) == ([2], 2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x0a\x02ab\x10\x07", {"name": "ab", "number": 7}),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", {"number": -1}),
        # The last of two counts, as for all parsers.
        (b"\x10\x07\x10\x08", {"number": 8}),
        (b"\x2a\x02\x01\x02\x28\x03", {"numbers": [1, 2, 3]}),
        (b"\x32\x08" + bytes(8) + b"\x35" + bytes(4), {"floats": 3}),
        (b"\x3a\x03\x80\x01\x05\x38\x01", {"varints": 3}),
        (b"\x42\x01a\x42\x00", {"texts": 2}),
        (b"\x52\x08" + bytes(8), {"doubles": 1}),
        (b"\x4a\x03abc", {"raw": Span(2, 3)}),
        (b"\x22\x00\x22\x02\x10\x01", {"many": [{}, {"number": 1}]}),
        # A field that the schema does not name.
        (b"\xa2\x06\x03abc\x10\x01", {"number": 1}),
        (b"", {}),
    ],
)
def test_fields_are_decoded(content: bytes, expected: dict[str, Any]) -> None:
    assert read(content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0a\x05ab", "cut off"),
        (b"\x10", "cut off"),
        (b"\x10" + b"\xff" * 11, "longer than 10"),
        (b"\x02\x00", "the number 0"),
        (b"\x0b", "unknown kind 3"),
        (b"\x08\x01", "name is a number"),
        (b"\x15" + bytes(4), "is no integer"),
        (b"\x1a\x00\x1a\x00", "inner is there twice"),
        (b"\x32\x03abc", "3 bytes of 4"),
        (b"\x3a\x01\x80", "varints is cut off"),
        (b"\x39" + bytes(8), "another size"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut off"),
        (nested(101), "nested more than 100"),
    ],
)
def test_what_no_writer_writes_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(WireFormatError, match=message):
        read(content)
    assert read(nested(100))


def test_more_fields_than_any_model_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paring.models.wire_format._MAX_FIELDS", 100)
    with pytest.raises(WireFormatError, match="more than 100"):
        read(b"\x10\x01" * 101)
    with pytest.raises(WireFormatError, match="more than 100"):
        read(b"\x2a\x66" + bytes(102))
