"""Spoil files: bytes at random, and values by the structure of JSON and YAML."""

import gzip
import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import yaml

Mutation = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, -1, 1 << 31, 1 << 62, 1 << 64, 10**30, 1e308, -1e-320, float("nan"), float("inf"))
_OTHERS: tuple[Any, ...] = (
    None, True, False, "", "x", "../../x", "\ud800", "a\nb", "x" * 70_000, [], {}, [[]], [None],
    {"a": None}, {"": 0}, [1, "2"],
)  # fmt: skip


def bit_flips(data: bytes, drawn: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(drawn.choice((1, 2, 8, 64))):
        spoiled[drawn.randrange(len(spoiled))] ^= 1 << drawn.randrange(8)
    return bytes(spoiled)


def cut_off(data: bytes, drawn: random.Random) -> bytes:
    return data[: drawn.randrange(len(data))]


def doubled(data: bytes, drawn: random.Random) -> bytes:
    first, last = sorted(drawn.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:]


def left_out(data: bytes, drawn: random.Random) -> bytes:
    first, last = sorted(drawn.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def random_bytes(data: bytes, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(data))
    return data[:at] + drawn.randbytes(drawn.choice((1, 4, 300))) + data[at:]


def long_length(data: bytes, drawn: random.Random) -> bytes:
    """Eight bytes near the start become a large number, as a length in a header."""
    at = drawn.randrange(min(len(data), 200))
    number = drawn.choice((1 << 31, 1 << 62, (1 << 64) - 1, 1 << 40, 0))
    return data[:at] + struct.pack("<Q", number) + data[at + 8 :]


def huge_number(data: bytes, drawn: random.Random) -> bytes:
    """A digit in the text becomes many."""
    places = [at for at, byte in enumerate(data[:4096]) if 48 <= byte <= 57]
    if not places:
        return random_bytes(data, drawn)
    at = drawn.choice(places)
    return data[:at] + b"9" * drawn.choice((10, 20, 400, 5_000)) + data[at + 1 :]


BYTES: tuple[Mutation, ...] = (
    bit_flips, cut_off, doubled, left_out, random_bytes, long_length, huge_number,
)  # fmt: skip


def spoiled(value: Any, drawn: random.Random) -> Any:
    """The value with one part replaced, nested, left out, or doubled."""
    if isinstance(value, dict | list) and value and drawn.random() < 0.9:
        keys: list[Any] = [*value] if isinstance(value, dict) else [*range(len(value))]
        at = drawn.choice(keys)
        changed: Any = value.copy()
        act = drawn.random()
        if act < 0.08:
            del changed[at]
        elif act < 0.12 and isinstance(changed, list):
            changed.extend(value)
        elif act < 0.16 and isinstance(changed, dict):
            changed[drawn.choice(("x", "", "a/b", "\udfff", "9" * 30))] = value[at]
        else:
            changed[at] = spoiled(value[at], drawn)
        return changed
    act = drawn.random()
    if act < 0.05:
        for _ in range(drawn.choice((50, 90, 150, 400))):
            value = [value] if drawn.random() < 0.5 else {"a": value}
        return value
    if act < 0.15 and isinstance(value, int | float):
        return str(value)
    return drawn.choice(_NUMBERS if act < 0.5 else _OTHERS)


def by_json(data: bytes, drawn: random.Random) -> bytes:
    value = json.loads(data)
    for _ in range(drawn.choice((1, 1, 1, 2, 5))):
        value = spoiled(value, drawn)
    return json.dumps(value).encode()


def by_json_line(data: bytes, drawn: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = drawn.randrange(len(lines))
    return b"".join([*lines[:at], by_json(lines[at], drawn) + b"\n", *lines[at + 1 :]])


def deep_json(_: bytes, drawn: random.Random) -> bytes:
    depth = drawn.choice((300, 3_000, 300_000))
    return drawn.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))


def by_yaml(data: bytes, drawn: random.Random) -> bytes:
    value = yaml.safe_load(data)
    for _ in range(drawn.choice((1, 1, 1, 2, 5))):
        value = spoiled(value, drawn)
    try:
        return yaml.safe_dump(value, allow_unicode=False).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 5_000


def odd_yaml(data: bytes, drawn: random.Random) -> bytes:
    return drawn.choice(
        (
            b":" * 50_000, b"a: " * 20_000, b"- " * 9_000, b"? " * 9_000, b"[" * 2_000,
            b"a: &a [*a]", b"name: 2024-13-40", b"name: !!python/object:os.system x",
            b"name: " + b"59:" * 30_000 + b"1", b"".join(b"k%d: 1\n" % n for n in range(90_000)),
            data + b"\nname: x", data.replace(b":", b": &a ", 3) + b"\nb: *a",
            b"%YAML 9.9\n" + data,
        )
    )  # fmt: skip


def by_header(data: bytes, drawn: random.Random) -> bytes:
    """The JSON header of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    header = by_json(data[8 : 8 + length], drawn)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def of_gzip(mutate: Mutation) -> Mutation:
    def mutated(data: bytes, drawn: random.Random) -> bytes:
        return gzip.compress(mutate(gzip.decompress(data), drawn), 1)

    return mutated


def gzip_bomb(_: bytes, drawn: random.Random) -> bytes:
    """A line of 100 MB in 100 kB."""
    start = drawn.choice((b'{"text": "', b"", b'{"text": '))
    return gzip.compress(start + drawn.choice((b"a", b" ", b"[")) * (100 << 20), 1)


def parquet_bomb(_: bytes, drawn: random.Random) -> bytes:
    """Rows of 2.6 GB, or a page of 300 MB, in some kilobytes."""
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    if drawn.random() < 0.5:
        rows = pyarrow.array([0] * 260, "int32")
        texts = pyarrow.DictionaryArray.from_arrays(rows, ["a" * (10 << 20)])
    else:
        texts = pyarrow.array(["a" * (300 << 20)])
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(
        table, file, compression="zstd", dictionary_pagesize_limit=1 << 30, write_statistics=False
    )
    return file.getvalue()


def wild_numbers(data: bytes, drawn: random.Random) -> bytes:
    """Numbers in the footer of a Parquet file become large."""
    length = int.from_bytes(data[-8:-4], "little")
    spoiled = bytearray(data)
    for _ in range(drawn.choice((1, 2, 4))):
        at = drawn.randrange(len(data) - 8 - length, len(data) - 8)
        number = drawn.choice((b"\xff\xff\xff\xff\x0f", b"\xfe" * 9 + b"\x01", b"\xff\x7f"))
        spoiled[at : at + len(number)] = number
    return bytes(spoiled[: len(data) - 8]) + data[-8:]


def odd_template(_: bytes, drawn: random.Random) -> bytes:
    loops = b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    return drawn.choice(
        (
            loops, b"{{ 'x' * 4000000000 }}", b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            b"\xff\xfe", b"{{ messages.__class__ }}", b"{% for %}", b"{{ 9 ** 9 ** 9 }}",
            b"{{ '%999999999d' % 1 }}", b"{{ '\\ud800' }}", b"{% if %}" * 9_000, b"(" * 9_000,
            b"{{ " + b"(" * 5_000, b"{{ " + b"[" * 5_000 + b"]" * 5_000 + b" }}",
        )
    )  # fmt: skip


JSON = (*BYTES, by_json, by_json, by_json, by_json, deep_json)
JSON_LINES = (*BYTES, by_json_line, by_json_line, by_json_line, by_json_line, deep_json)
YAML = (*BYTES, by_yaml, by_yaml, by_yaml, by_yaml, odd_yaml, odd_yaml)
TENSORS = (*BYTES, by_header, by_header, by_header, long_length)
PARQUET = (*BYTES, wild_numbers, wild_numbers, parquet_bomb)
GZIP = (*BYTES, *map(of_gzip, JSON_LINES), gzip_bomb)
TEMPLATE = (*BYTES, odd_template)
