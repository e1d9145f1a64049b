"""Files that nobody writes by accident, and what stands where a file should."""

import io
import json
import os
import socket
import struct
import warnings
import zipfile

import h5py
import numpy as np
from hypothesis import strategies as st

ROWS = 12
KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
GOOD = {
    "observations": np.zeros((ROWS, 2), np.float32) + np.arange(ROWS)[:, None],
    "actions": np.zeros((ROWS, 2), np.float32),
    "rewards": np.ones(ROWS, np.float32),
    "terminals": np.zeros(ROWS, bool),
    "timeouts": np.arange(ROWS) % 6 == 5,
}
DEEP = 100_000
DIGITS = "9" * 400

# --- HDF5 ---


def _external_storage(file, key, folder):
    (folder / "other.bin").write_bytes(GOOD["observations"].tobytes())
    file.create_dataset(
        key, GOOD[key].shape, "f4", external=[(str(folder / "other.bin"), 0, h5py.h5f.UNLIMITED)]
    )


def _external_link(file, key, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other[key] = GOOD[key]
    file[key] = h5py.ExternalLink(str(folder / "other.h5"), f"/{key}")


def _virtual(file, key, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other[key] = GOOD[key].astype("f4")
    layout = h5py.VirtualLayout(GOOD[key].shape, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), key, GOOD[key].shape)
    file.create_virtual_dataset(key, layout)


def _huge(file, key, folder):
    shape = (2**40, *GOOD[key].shape[1:])
    file.create_dataset(key, shape, "f4", chunks=(1024, *GOOD[key].shape[1:]))


def _bomb(file, key, folder):
    rows = 2**26
    shape = (rows, *GOOD[key].shape[1:])
    options = {"chunks": (2**16, *shape[1:]), "compression": "gzip", "maxshape": (None, *shape[1:])}
    data = file.create_dataset(key, shape, "f4", **options)
    data[: 2**16] = 0


def _loop(file, key, folder):
    file[key] = h5py.SoftLink(f"/{key}")


def _chain(file, key, folder):
    for i in range(300):
        file[f"link{i}"] = h5py.SoftLink(f"/link{i + 1}")
    file[key] = h5py.SoftLink("/link0")


def _objects(file, key, folder):
    data = file.create_dataset(key, (ROWS,), h5py.string_dtype())
    data[:] = ["__import__('os').abort()"] * ROWS


def _references(file, key, folder):
    data = file.create_dataset(key, (ROWS,), h5py.ref_dtype)
    data[0] = file.ref


def _plain(value):
    def write(file, key, folder):
        file[key] = value(GOOD[key])

    return write


# A text names the way in a failure.
HDF5 = {
    "good": _plain(lambda x: x),
    "missing": lambda *_: None,
    "external storage": _external_storage,
    "external link": _external_link,
    "virtual": _virtual,
    "huge": _huge,
    "bomb": _bomb,
    "loop": _loop,
    "chain": _chain,
    "objects": _objects,
    "references": _references,
    "group": lambda file, key, folder: file.create_group(f"{key}/inner"),
    "null": lambda file, key, folder: file.create_dataset(key, data=h5py.Empty("f4")),
    "scalar": _plain(lambda x: 1.0),
    "empty": _plain(lambda x: x[:0]),
    "no columns": _plain(lambda x: np.zeros((ROWS, 0), np.float32)),
    "3-D": _plain(lambda x: np.zeros((ROWS, 2, 2), np.float32)),
    "short": _plain(lambda x: x[:-3]),
    "complex": _plain(lambda x: x.astype(complex)),
    "records": _plain(lambda x: np.zeros(ROWS, [("a", "f4"), ("b", "i8")])),
    "bytes": _plain(lambda x: np.full(ROWS, b"abc")),
    "NaN": _plain(lambda x: np.full(x.shape, np.nan)),
    "infinite": _plain(lambda x: np.full(x.shape, -np.inf)),
    "beyond float32": _plain(lambda x: np.full(x.shape, 1e300)),
    "2^63": _plain(lambda x: np.full(x.shape, 2**63 - 1)),
    "half floats": _plain(lambda x: x.astype(np.float16)),
    "negative flags": _plain(lambda x: np.full(x.shape, -1, np.int8)),
}
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "os:system",
            "antigravity:x",
            "CartPole-v1",
            "a" * 70_000,
            "\x1b[2J",
            "../../x",
            "%s{}",
        ]
    ),
    st.text(max_size=30),
)
ATTRIBUTES = st.one_of(
    TEXTS.filter(lambda text: "\0" not in text),
    st.binary(max_size=30).map(np.void),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.floats(), min_size=1, max_size=5),
)


@st.composite
def hdf5_plans(draw):
    """(how each key is written, the attributes)."""
    odd = draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(sorted(HDF5)), max_size=3))
    return {"good": "good"} | odd, draw(
        st.dictionaries(st.sampled_from(["env_id", "mujoco", "x"]), ATTRIBUTES, max_size=2)
    )


def write_hdf5(path, plan, attributes):
    with h5py.File(path, "w") as file:
        for key in KEYS:
            HDF5[plan.get(key, "good")](file, key, path.parent)
        for key, value in attributes.items():
            file.attrs[key] = value


# --- npz ---


def _member(header, data=b""):
    text = header.encode("latin1")
    pad = -(len(text) + 11) % 64
    text += b" " * pad + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _head(shape, descr="'<f4'", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def _npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


NPY = {
    "huge": _member(_head("(1099511627776, 2)")),
    "overflow": _member(_head("(4611686018427387904, 4611686018427387904)")),
    "negative": _member(_head("(-5, 2)"), b"\0" * 400),
    "digits": _member(_head(f"({DIGITS},)")),
    "nested": _member("(" * 5000 + ")" * 5000),
    "code": _member("__import__('os').abort()"),
    "pickle": _member(_head("(1,)", "'|O'"), b"cos\nabort\n(tR."),
    "objects": _npy(np.array([{}, 1], object)),
    "text": _npy(np.full(ROWS, "abc")),
    "dates": _npy(np.zeros(ROWS, "M8[s]")),
    "complex": _npy(np.zeros((ROWS, 2), complex)),
    "scalar": _npy(np.float32(1)),
    "empty": _npy(np.zeros((0, 2), np.float32)),
    "records": _npy(np.zeros(ROWS, [("a", "f4")])),
    "short": _npy(GOOD["observations"])[:-9],
    "no magic": b"\x93NUMPX" + b"\0" * 90,
    "version 9": b"\x93NUMPY\x09\x00" + b"\0" * 90,
    "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{" * 90,
    "none": b"",
    "fortran": _npy(np.asfortranarray(GOOD["observations"])),
    "NaN": _npy(np.full((ROWS, 2), np.nan)),
}
PACKING = (
    "stored",
    "deflated",
    "encrypted",
    "method 99",
    "wrong crc",
    "wrong size",
    "twice",
    "cut",
)


@st.composite
def npz_plans(draw):
    """(how each key is written, how the archive is packed)."""
    odd = draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(sorted(NPY)), max_size=2))
    return odd, draw(st.sampled_from(PACKING))


def write_npz(path, plan, packing):
    method = zipfile.ZIP_DEFLATED if packing == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as file:
        for key in KEYS:
            content = NPY[plan[key]] if key in plan else _npy(GOOD[key])
            file.writestr(f"{key}.npy", content)
    if packing == "twice":
        with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the name is there
            file.writestr("rewards.npy", _npy(GOOD["rewards"] + 1))
    content = bytearray(path.read_bytes())
    local, central = content.find(b"PK\x03\x04"), content.find(b"PK\x01\x02")
    if packing == "encrypted":
        content[local + 6] |= 1
        content[central + 8] |= 1
    elif packing == "method 99":
        content[local + 8 : local + 10] = content[central + 10 : central + 12] = b"\x63\0"
    elif packing == "wrong crc":
        content[central + 16] ^= 255
    elif packing == "wrong size":
        content[central + 24 : central + 28] = b"\xf0\xff\xff\x7f"
    elif packing == "cut":
        del content[len(content) // 2 :]
    path.write_bytes(content)


def bomb_npz(path, rows=150_000_000):
    """A megabyte that unpacks to more than the memory limit."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for key in KEYS:
            shape = (rows, 2) if key in ("observations", "actions") else (rows,)
            with file.open(f"{key}.npy", "w", force_zip64=True) as member:
                member.write(_member(_head(str(shape))))
                if key == "observations":
                    for _ in range(rows * 8 // 2**24):
                        member.write(bytes(2**24))


# --- JSON and TOML ---

JSON_VALUES = st.one_of(
    st.sampled_from(
        [
            "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, DIGITS, f"-{DIGITS}",
            f"[{DIGITS}]", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "null", "true", "[]",
            "{}", '""', '"\\ud800"', '"\\u0000"', '"' + "a" * 100_000 + '"', "0", "-1", "1e-320",
            "0.1e1", "[null]", "[[]]", "[1, 2", "'a'", "01", "18446744073709551616", '"nan"',
            "[" + "0," * 50_000 + "0]", '{"__class__": "x"}', '{"seeds": [0]}', '"os:system"',
        ]
    ),
    st.integers().map(json.dumps),
    st.floats().map(json.dumps),
    st.text(max_size=20).map(json.dumps),
)  # fmt: skip
WRAPPINGS = ("plain", "bom", "utf-16", "latin-1", "null bytes", "cut", "twice")


def wrapped(text, wrapping):
    """The bytes of a text file."""
    content = text.encode("utf-8", "surrogatepass")
    if wrapping == "bom":
        return b"\xef\xbb\xbf" + content
    if wrapping == "utf-16":
        return text.encode("utf-16", "surrogatepass")
    if wrapping == "latin-1":
        return content + "é".encode("latin-1")
    if wrapping == "null bytes":
        return content + b"\0"
    if wrapping == "cut":
        return content[: len(content) // 2]
    return content * 2 if wrapping == "twice" else content


@st.composite
def json_changes(draw, tables):
    """(table's name, the path of a value in it, the text that takes its place, the wrapping)."""
    name = draw(st.sampled_from(sorted(tables)))
    path = draw(st.sampled_from(sorted(paths(tables[name]))))
    return name, path, draw(JSON_VALUES), draw(st.sampled_from(WRAPPINGS))


def paths(table):
    """The places of values in JSON: keys and positions, joined by slashes; '' is all of it."""
    yield ""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from (f"{key}/{rest}".rstrip("/") for rest in paths(value))
        else:
            yield str(key)


MARK = "@@here@@"


def changed(table, path, text):
    """The JSON of a table with a text in one place."""
    table = json.loads(json.dumps(table))
    if not path:
        return text
    *above, last = path.split("/")
    inner = table
    for key in above:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[int(last) if isinstance(inner, list) else last] = MARK
    return json.dumps(table).replace(json.dumps(MARK), text)


TOML_VALUES = st.sampled_from(
    [
        "[" * 5000 + "]" * 5000, "{a = " * 2000 + "1" + "}" * 2000, DIGITS, f"-{DIGITS}", "nan",
        "inf", "-inf", "1e999", '""', "''", "'''x", "[]", "{}", "true", "1979-05-27",
        "0xffffffffffffffffff",
        '"\\ud800"', '"' + "a" * 100_000 + '"', "[[1], [2]]", "-1", "2.5",
        "[0, 0]", "['os:system']",
    ]
)  # fmt: skip
TOML_LINES = (
    "preset", "seeds", "options", "options.batch_size", "options.rho", "options.iql",
    "options.iql.expectile", "options.online_steps", "options.base", "options.score",
    "tasks", "tasks.t", "tasks.t.dataset", "variants", "variants.a", "variants.a.tasks",
    "unknown", '"\\u0000"', "tasks.t.t.t", "options.env",
)  # fmt: skip
toml_changes = st.tuples(st.sampled_from(TOML_LINES), TOML_VALUES, st.sampled_from(WRAPPINGS))

# --- safetensors ---

TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HEADERS = st.one_of(
    st.sampled_from(
        [
            "[" * DEEP + "]" * DEEP, "{}", "[]", "null", "", '{"__metadata__": 1}',
            '{"__metadata__": {"a": 1}}', '{"a": {}}', '{"a": null}', "\xff",
        ]
    ),
    st.builds(
        lambda field, value: json.dumps({"obs_mean": TENSOR | {field: value}}),
        st.sampled_from(sorted(TENSOR)),
        st.sampled_from(
            [
                "F8_E4M3", "BF16", "BOOL", "I64", "X9", [], [-1], [2**62, 2**62], [2**40, 2**10],
                [0], [4], [[4]], None, "", [0, 2**60], [16, 0], [8, 24], [0, 16, 32], int(DIGITS),
                [int(DIGITS), int(DIGITS)], {"a": 1},
            ]
        ),
    ),
    st.text(max_size=40),
)  # fmt: skip
LENGTHS = ("right", "0", "2^63", "2^64-1", "one more", "one less", "cut")


def tensors(header, length):
    """A safetensors file of a header and 16 bytes."""
    text = header.encode("utf-8", "replace")
    number = {
        "0": 0, "2^63": 2**63, "2^64-1": 2**64 - 1, "one more": len(text) + 1,
        "one less": max(len(text) - 1, 0),
    }.get(length, len(text))  # fmt: skip
    content = struct.pack("<Q", number) + text + bytes(16)
    return content[:5] if length == "cut" else content


# --- what stands where a file should ---


def _socket(path):
    # Its name may be longer than a socket's may be.
    old = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(old)


NO_FILES = {
    "fifo": os.mkfifo,
    "socket": _socket,
    "folder": lambda path: path.mkdir(),
    "symlink loop": lambda path: path.symlink_to(path.name),
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/null": lambda path: path.symlink_to("/dev/null"),
    "/dev/random": lambda path: path.symlink_to("/dev/urandom"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "nothing": lambda path: None,
    "empty": lambda path: path.touch(),
    "sparse": lambda path: os.truncate(_touched(path), 2**40),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "text": lambda path: path.write_text("hello\n" * 100),
}


def _touched(path):
    path.touch()
    return path


ODD_NAMES = (
    "a\nb",
    "\x1b[31mred",
    "ü" * 100,
    "-",
    "--out",
    "a b;c",
    "%d%s{}",
    "\udcff\udc80",
    ".hdf5",
)
