"""Files of arrays come back bit for bit; damaged and hostile ones are clear errors."""

import contextlib
import dataclasses
import functools
import json
import operator
import tracemalloc
import weakref
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.coding import container


def named(seed=0) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    kernel = np.where(rng.random((20, 30)) < 0.2, rng.choice(rng.normal(size=7), (20, 30)), 0)
    return [
        ("kernel", kernel.astype("float32")),
        ("bias", rng.normal(size=30).astype("float32")),
        ("count", np.array(7, "int64")),
        ("none", np.zeros((0, 3), "float16")),
        ("mask", rng.random(40) < 0.5),
    ]


def written(path, seed=0, header=None):
    container.write(path, header or {"model": {"name": "é"}}, named(seed))
    return path


def test_arrays_and_header_come_back(tmp_path):
    opened = container.read(written(tmp_path / "a.tfc"))
    assert opened.header == {"model": {"name": "é"}}
    found = list(opened.arrays())
    for (entry, array), (name, expected) in zip(found, named(), strict=True):
        assert entry.name == name and array.dtype == expected.dtype and array.shape == expected.shape
        assert array.tobytes() == expected.tobytes() and entry.dense_bytes == expected.nbytes
    assert opened.size == (tmp_path / "a.tfc").stat().st_size
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tfc"]


def test_bfloat16(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(9, dtype="float32").astype(ml_dtypes.bfloat16)
    container.write(tmp_path / "a.tfc", {}, [("half", array)])
    ((_, found),) = container.read(tmp_path / "a.tfc").arrays()
    assert found.dtype == array.dtype and found.tobytes() == array.tobytes()


@given(data=st.data())
def test_every_damage_is_said(data, tmp_path_factory):
    """A checksum, or a size, tells of any byte that is another one."""
    path = written(tmp_path_factory.mktemp("damage") / "a.tfc")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        cut = data.draw(st.integers(0, len(content) - 1))
        content = content[:cut] if data.draw(st.booleans()) else content + bytes(cut + 1)
    path.write_bytes(content)
    with pytest.raises(container.FormatError):
        list(container.read(path).arrays())


ENTRY = {
    "name": "a",
    "shape": [2],
    "dtype": "float32",
    "kind": "raw",
    "settings": {},
    "sizes": [8],
    "crc": zlib.crc32(bytes(8)),
}


def forged(path, content: bytes, streams: bytes = bytes(8)):
    packed = zlib.compress(content)
    fixed = container._FIXED.pack(container.SIGNATURE, container.VERSION, len(packed), zlib.crc32(packed))
    path.write_bytes(fixed + packed + streams)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**15]},
        {"shape": [-1]},
        {"shape": [2.0]},
        {"shape": 2},
        {"shape": ["2"]},
        {"dtype": "object"},
        {"dtype": "O"},
        {"kind": 3},
        {"kind": "pickle"},
        {"settings": []},
        {"settings": {"order": ["x"]}},
        {"settings": {"order": {}}},
        {"sizes": [4, 4]},
        {"sizes": []},
        {"sizes": [True]},
        {"crc": 0},
        {"more": 1},
        {"name": None},
        {"kind": "planes"},
        {"kind": "sparse"},
        {"kind": "table"},
        {"kind": "gaps"},
        {"kind": "gaps", "settings": {"bits": 400, "coded": 2**60}, "sizes": [0, 2, 2, 2, 2]},
        {"kind": "table", "sizes": [0, 8], "shape": [2**20, 2**20, 2**20]},
    ],
)
def test_forged_headers_are_refused(tmp_path, change):
    header = {"arrays": [{**ENTRY, **change}]}
    path = forged(tmp_path / "a.tfc", json.dumps(header).encode())
    with pytest.raises(container.FormatError):
        list(container.read(path).arrays())


NUMBERS = st.one_of(st.integers(-3, 300), st.sampled_from([2**15, 2**31, 2**47, 2**62]))
ANYTHING = st.one_of(NUMBERS, st.none(), st.booleans(), st.text(max_size=5), st.floats(), st.lists(NUMBERS))


def leaves(node, path=()):
    """The paths of all that is in a piece of JSON."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from leaves(value, (*path, key))


@given(data=st.data())
def test_forged_entries_are_refused_or_arrays_never_a_crash(data, tmp_path_factory):
    """With checksums that fit: whoever forges a file makes these, too. Memory is that of shapes at most."""
    path = written(tmp_path_factory.mktemp("forged") / "a.tfc")
    opened = container.read(path)
    content = json.loads(json.dumps({"arrays": [dataclasses.asdict(entry) for entry in opened.entries]}))
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(list(leaves(content))))
        place = functools.reduce(operator.getitem, above, content)
        if data.draw(st.booleans()):
            place[last] = data.draw(ANYTHING)
        else:
            del place[last]
        if not content.get("arrays"):
            break
    streams = path.read_bytes()[opened.overhead :]
    forged(path, json.dumps(content).encode(), streams)
    tracemalloc.start()
    try:
        with contextlib.suppress(container.FormatError):
            for entry, array in container.read(path).arrays():
                assert array.shape == entry.shape
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_arrays_are_decoded_one_after_another(tmp_path):
    seen = []
    for _, array in container.read(written(tmp_path / "a.tfc")).arrays():
        if array.ndim:
            assert not any(earlier() is not None for earlier in seen)
            seen.append(weakref.ref(array))
        del array
    assert len(seen) == 4


def test_few_bytes_that_claim_to_be_a_huge_array_are_refused(tmp_path):
    container.write(tmp_path / "a.tfc", {}, [("zeros", np.zeros((100, 100), "float32"))])
    entry = dataclasses.asdict(container.read(tmp_path / "a.tfc").entries[0])
    assert entry["kind"] == "gaps" and sum(entry["sizes"]) < 40
    header = {"arrays": [{**entry, "shape": [2**20, 2**20]}]}
    streams = (tmp_path / "a.tfc").read_bytes()[-sum(entry["sizes"]) :]
    path = forged(tmp_path / "b.tfc", json.dumps(header).encode(), streams)
    with pytest.raises(container.FormatError, match="bytes are arrays of 4398046511104"):
        container.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"nul", b"\xff", b'{"arrays": 3}', b'{"arrays": [3]}', b"[" * 100_000]
)
def test_what_is_no_header_is_refused(tmp_path, content):
    with pytest.raises(container.FormatError):
        container.read(forged(tmp_path / "a.tfc", content))


def test_a_header_that_grows_beyond_bounds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_HEADER", 1000)
    path = forged(tmp_path / "a.tfc", json.dumps({"arrays": [], "x": " " * 10**6}).encode())
    with pytest.raises(container.FormatError, match="too long"):
        container.read(path)


def test_newer_and_other_files_are_said(tmp_path):
    path = written(tmp_path / "a.tfc")
    content = path.read_bytes()
    path.write_bytes(content[:8] + (99).to_bytes(2, "little") + content[10:])
    with pytest.raises(container.FormatError, match="version 99 .* install a newer one"):
        container.read(path)
    path.write_bytes(b"PK" + content)
    with pytest.raises(container.FormatError, match=r"no \.tfc file"):
        container.read(path)


def test_types_that_the_format_lacks_are_said(tmp_path):
    with pytest.raises(ValueError, match="'a' is of type complex64"):
        container.write(tmp_path / "a.tfc", {}, [("a", np.zeros(2, "complex64"))])
