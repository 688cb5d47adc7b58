"""A ggml tensor as it lies in memory, mirrored, and the check that the mirror fits.

llama.cpp hands its evaluation callback a pointer to `struct ggml_tensor` (ggml.h), whose
fields have moved between versions. `check_tensor_layout` builds tensors whose every field is
known, with ggml's own functions, and reads them through the mirror: a build with another
layout is refused before a byte of it is misread.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.errors import EngineBuildError

if TYPE_CHECKING:
    from jaxtyping import Float32

MAX_DIMS, MAX_SOURCES, OP_PARAM_BYTES, NAME_BYTES = 4, 10, 64, 64
F32 = 0
"""`GGML_TYPE_F32`."""
FITTING_BUILD = "pip install 'cotejar[llamacpp]' installs the version that is known to fit"
"""What to try where a build does not."""


class Tensor(ctypes.Structure):
    """`struct ggml_tensor`. Sizes and strides come innermost first."""

    type: int
    buffer: int | None
    ne: ctypes.Array[ctypes.c_int64]
    nb: ctypes.Array[ctypes.c_size_t]
    op: int
    src: Any
    data: int | None
    name: bytes


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * (OP_PARAM_BYTES // 4)),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * MAX_SOURCES),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * NAME_BYTES),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


class InitParams(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


_ADDRESS = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_ADDRESS, [InitParams]),
    "ggml_free": (None, [_ADDRESS]),
    "ggml_new_tensor_2d": (
        _ADDRESS,
        [_ADDRESS, ctypes.c_int, ctypes.c_int64, ctypes.c_int64],
    ),
    "ggml_mul_mat": (_ADDRESS, [_ADDRESS, _ADDRESS, _ADDRESS]),
    "ggml_set_name": (_ADDRESS, [_ADDRESS, ctypes.c_char_p]),
    "ggml_get_data": (_ADDRESS, [_ADDRESS]),
    "ggml_nbytes": (ctypes.c_size_t, [_ADDRESS]),
    "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
    "ggml_op_desc": (ctypes.c_char_p, [_ADDRESS]),
    "ggml_version": (ctypes.c_char_p, []),
    "ggml_commit": (ctypes.c_char_p, []),
    "ggml_backend_reg_count": (ctypes.c_size_t, []),
    "ggml_backend_reg_get": (_ADDRESS, [ctypes.c_size_t]),
    "ggml_backend_reg_name": (ctypes.c_char_p, [_ADDRESS]),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, [_ADDRESS]),
}


def declare_functions(library: ctypes.CDLL) -> None:
    """Give the functions of ggml that are called here their types.

    Raises:
        EngineBuildError: the library lacks one of them.
    """
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise _no_fit(f"a function {name}", "none") from None
        function.restype, function.argtypes = result, arguments


def check_tensor_layout(library: ctypes.CDLL) -> None:
    """Read tensors of known contents through the mirror.

    Raises:
        EngineBuildError: a field is not where the mirror has it.
    """
    context = library.ggml_init(InitParams(1 << 16, None, False))  # noqa: FBT003 - a struct
    try:
        a = library.ggml_new_tensor_2d(context, F32, 3, 2)
        b = library.ggml_new_tensor_2d(context, F32, 3, 5)
        c = library.ggml_mul_mat(context, a, b)
        library.ggml_set_name(a, b"cotejar.a")
        library.ggml_set_name(c, b"cotejar.product")
        stored, product = Tensor.from_address(a), Tensor.from_address(c)
        known = {
            "type": (stored.type, F32),
            "buffer": (stored.buffer, None),
            "ne": (list(stored.ne), [3, 2, 1, 1]),
            "nb": (list(stored.nb), [4, 12, 24, 24]),
            "data": (stored.data, library.ggml_get_data(a)),
            "name": (stored.name, b"cotejar.a"),
            "ne of a product": (list(product.ne), [2, 5, 1, 1]),
            "op": (library.ggml_op_desc(c), b"MUL_MAT"),
            "op of a product": (library.ggml_op_name(product.op), b"MUL_MAT"),
            "src": ([_address(src) for src in product.src[:3]], [a, b, 0]),
            "name of a product": (product.name, b"cotejar.product"),
        }
    finally:
        library.ggml_free(context)
    for field, (read, expected) in known.items():
        if read != expected:
            raise _no_fit(f"{field} {expected!r}", repr(read))


def copy_tensor(
    library: ctypes.CDLL, address: int, num_tokens: int
) -> Float32[np.ndarray, "T W"]:
    """The values of the tensor at `address`, tokens x width.

    A copy: the memory is used again before the pass ends.

    Raises:
        EngineBuildError: values that are not float32 in this process's memory, or not whole
            rows of tokens.
    """
    tensor = Tensor.from_address(address)
    name, shape = tensor.name.decode("utf-8", "replace"), tuple(tensor.ne)[::-1]
    size = int(np.prod(shape, dtype=np.int64))
    if tensor.type != F32 or not tensor.data or size % num_tokens or size == 0:
        raise _no_fit(
            f"{name}: float32, {num_tokens} rows", f"ggml type {tensor.type}, {shape}"
        )
    if tensor.buffer and not library.ggml_backend_buffer_is_host(tensor.buffer):
        raise _no_fit(f"{name} in this process's memory", "a buffer of another device")
    num_bytes = library.ggml_nbytes(address)
    memory = (ctypes.c_char * num_bytes).from_address(tensor.data)
    values = np.ndarray(shape, np.float32, memory, strides=tuple(tensor.nb)[::-1])
    copied: np.ndarray = np.array(values, copy=True, order="C").reshape(num_tokens, -1)
    return copied


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _no_fit(expected: str, found: str) -> EngineBuildError:
    return EngineBuildError(
        "this build of llama.cpp cannot be read here",
        where="llama-cpp-python, struct ggml_tensor",
        expected=expected,
        found=found,
        hint=FITTING_BUILD,
    )
