"""Files from outside: every damage is one sentence, in little memory and time."""

import json
import os
import pwd
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stratdiff import reading
from stratdiff.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "theirs"


@pytest.fixture(autouse=True)
def little_memory():
    """What is declared and not there must not be allocated: 2 GiB above what is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def refused(call, path, *words):
    with pytest.raises(UserError) as caught:
        call(path, "config file")
    message = str(caught.value)
    for word in ("config file", *words):
        assert word in message, (word, message)
    assert "\n" not in message and len(message) < 1000


READERS = (
    reading.read_text,
    reading.read_json,
    reading.read_toml,
    reading.read_npz,
    reading.npz_keys,
    reading.read_safetensors,
)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_opened(path, reader):
    refused(reader, path, str(path), "does not exist")
    os.mkfifo(path)
    refused(reader, path, "is a pipe")
    refused(reader, path.parent, "is a folder")
    refused(reader, "/dev/zero", "is a device")
    refused(reader, path / "below", "does not exist")
    for name in ("a\0b", "\ud800", "a" * 300):
        refused(reader, name)


def test_byte_order_mark(path):
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert reading.read_json(path, "file") == {"a": "é"}
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert reading.read_toml(path, "file") == {"a": 1}
    path.write_bytes(b"\xff\xfe{")
    refused(reading.read_json, path, "UTF-8")


BAD_JSON = {
    "nothing": (b"", "Expecting value"),
    "nested": (b"[" * 100_000, "too deep"),
    "nested a little": (b"[" * 50 + b"]" * 50, "deeper than 32"),
    "nested tables": (b'{"a":' * 50 + b"1" + b"}" * 50, "deeper than 32"),
    "400 digits": (b"[" + b"4" * 400 + b"]", "64 bits"),
    "5000 digits": (b"[" + b"4" * 5000 + b"]", "digits"),
    "infinite": (b"[1e999]", "not finite"),
    "NaN": (b'{"a": NaN}', "not finite"),
    "surrogate": (b'"\\ud800"', "surrogates"),
    "NUL": (b'{"a\\u0000": 1}', "NUL"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_json_that_is_refused(path, case):
    content, words = BAD_JSON[case]
    path.write_bytes(content)
    refused(reading.read_json, path, str(path), words)


def test_duplicate_keys_are_harmless(path):
    path.write_bytes(b'{"a": 1, "a": 2}')
    assert reading.read_json(path, "file") == {"a": 2}


BAD_TOML = {
    "nested": (b"a = " + b"[" * 50_000, "recursion"),
    "dots": (b".".join([b"a"] * 100_000) + b" = 1", "dots"),
    "NaN": (b"a = nan", "not finite"),
    "400 digits": (b"a = " + b"4" * 400, "64 bits"),
    "twice": (b"a = 1\na = 2", "overwrite"),
    "large": (b"#" * 300_000, "more than 262,144 bytes"),
}


@pytest.mark.parametrize("case", BAD_TOML)
def test_toml_that_is_refused(path, case):
    content, words = BAD_TOML[case]
    path.write_bytes(content)
    refused(reading.read_toml, path, str(path), words)


def npz_member(header, body=b"", version=b"\x01\x00"):
    """The bytes of an .npy file whose header says anything."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def shaped(shape, dtype="<f8"):
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"


BAD_NPY = {
    "huge": (npz_member(shaped("(10**12,)")), "header"),
    "huge number": (npz_member(shaped("(1000000000000,)")), "declares the shape"),
    "negative": (npz_member(shaped("(-1,)")), "declares the shape"),
    "many dimensions": (npz_member(shaped("(" + "2," * 500 + ")")), "declares the shape"),
    "objects": (npz_member(shaped("(1,)", "|O"), b"." * 8), "Python objects"),
    "too much": (npz_member(shaped("(1,)"), b"." * 16), "declares the shape"),
    "no header": (b"\x93NUMPY\x01\x00\xff\xff{", "header"),
    "parentheses": (npz_member("(" * 5000), "header"),
    "long header": (npz_member(shaped("(1,)") + " " * 60_000), "header"),
    "version": (npz_member(shaped("(1,)"), b"." * 8, b"\x07\x00"), "header"),
    "nothing": (b"", "header"),
}


@pytest.mark.parametrize("case", BAD_NPY)
def test_arrays_that_are_refused(path, case):
    content, words = BAD_NPY[case]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as file:
            file.writestr("a.npy", content)
        refused(reading.read_npz, path, str(path), words)


def test_npz(path):
    arrays = {"b": np.arange(6).reshape(2, 3), "a": np.zeros(10**6), "c": np.array(True)}
    for save in (np.savez, np.savez_compressed):
        with path.open("wb") as file:
            save(file, **arrays)
        found = reading.read_npz(path, "file")
        assert [*found] == reading.npz_keys(path, "file") == [*arrays]
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype
    assert [*reading.read_npz(path, "file", ["a", "d"])] == ["a"]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_npz_in_another_compression(path, method):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", npz_member(shaped("(1,)"), b"." * 8))
    refused(reading.read_npz, path, "compressed")


def test_encrypted_npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    refused(reading.read_npz, path, "encrypted")


def test_declared_and_stored():
    reading.check_declared(10_000_000, 100_000, "x")
    with pytest.raises(UserError, match=r"x declares 1,000,000,000 bytes and 100,000 are stored"):
        reading.check_declared(10**9, 10**5, "x")
    with pytest.raises(UserError, match="GiB of memory"):
        reading.check_declared(2**62, 2**60, "x")


def header_of(table):
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text


BAD_TENSORS = {
    "nothing": b"",
    "huge header": b"\xff" * 8,
    "long header": (2**22 + 1).to_bytes(8, "little") + b" " * (2**22 + 1),
    "no JSON": (4).to_bytes(8, "little") + b"null",
    "nested": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "huge": header_of({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
    "too little": header_of({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_are_refused(path, case):
    path.write_bytes(BAD_TENSORS[case])
    refused(reading.read_safetensors, path, str(path), "safetensors")


def test_safetensors(path):
    save_file({"a": np.arange(3)}, path, {"kind": "x"})
    arrays, metadata = reading.read_safetensors(path, "file")
    np.testing.assert_array_equal(arrays["a"], np.arange(3))
    assert metadata == {"kind": "x"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(VALUES, st.binary(max_size=4), st.integers(0, 200))
@settings(
    deadline=2000, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_read_or_refused(path, value, noise, place):
    content = json.dumps(value).encode()
    path.write_bytes(content[:place] + noise + content[place + len(noise) :])
    for reader in READERS:
        try:
            reader(path, "file")
        except UserError as error:
            assert "\n" not in str(error)


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reading.expanded("~/x") == str(tmp_path / "x")
    assert reading.expanded("~") == str(tmp_path)
    assert reading.expanded("a/~/x") == "a/~/x" and reading.expanded("~x") == "~x"
    monkeypatch.delenv("HOME")

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert reading.home().name == f"stratdiff-{os.getuid()}"
