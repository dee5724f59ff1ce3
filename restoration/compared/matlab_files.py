"""MATLAB files as plain Python values: of version 5 their plain variables, of version 7.3 (HDF5) everything."""

import io
import zlib
from typing import Any

import numpy as np

SIGNATURE_5, SIGNATURE_7 = b"MATLAB 5.0", b"MATLAB 7.3"
# What scipy, h5py and the code below raise for damaged files. A loop of references is a RecursionError, which is a
# RuntimeError.
_DAMAGED = (
    ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError, ArithmeticError, MemoryError, zlib.error,
)  # fmt: skip


def read_matlab(content: object) -> dict[str, Any] | None:
    """The variables of a MATLAB file, by name.

    Args:
        content: of a file that has been read.

    Returns:
        Arrays with MATLAB's order of axes, texts, structs as dictionaries, cell arrays as lists in MATLAB's order.
        Structs and cells of version 5 are as scipy gives them. None for a damaged file, and for other content.
    """
    if not isinstance(content, bytes) or not content.startswith((SIGNATURE_5, SIGNATURE_7)):
        return None
    try:
        return _version_5(content) if content.startswith(SIGNATURE_5) else _version_7(content)
    except _DAMAGED:
        return None


def _version_5(content: bytes) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(io.BytesIO(content))
    except MatReadError as error:
        raise ValueError(str(error)) from None
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _version_7(content: bytes) -> dict[str, Any]:
    import h5py

    def value_of(item: "h5py.Group | h5py.Dataset") -> Any:
        if isinstance(item, h5py.Group):
            return {name: value_of(child) for name, child in item.items()}
        kind = item.attrs.get("MATLAB_class", b"").decode()
        if "MATLAB_empty" in item.attrs:
            return {"cell": [], "char": ""}.get(kind, np.empty(0))
        if kind == "cell":
            return [value_of(file[reference]) for reference in item[()].ravel()]
        if kind == "char":
            return "".join(map(chr, item[()].ravel()))
        return item[()].T  # HDF5 has the axes in the opposite order

    with h5py.File(io.BytesIO(content), "r") as file:
        return {name: value_of(item) for name, item in file.items() if not name.startswith("#")}
