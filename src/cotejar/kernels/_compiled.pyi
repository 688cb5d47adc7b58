# The extension built from `compiled/`; sizes are checked there before a byte is read.
# Every function raises ValueError where sizes do not fit, TypeError where an array has
# another dtype, is not contiguous or has other axes.

import numpy as np

def isa_names() -> list[str]: ...
def set_num_threads(num_threads: int) -> None: ...
def num_threads() -> int: ...
def empty(shape: tuple[int, ...]) -> np.ndarray: ...
def multiply_q8(
    isa: str,
    block_type: int,
    raw: np.ndarray,
    rows: int,
    columns: int,
    activations: np.ndarray,
    out: np.ndarray,
) -> None: ...
def multiply_f32(
    isa: str,
    block_type: int,
    raw: np.ndarray,
    rows: int,
    columns: int,
    activations: np.ndarray,
    out: np.ndarray,
) -> None: ...
def rms_norm(
    isa: str, values: np.ndarray, weight: np.ndarray, eps: float, out: np.ndarray
) -> None: ...
def silu(isa: str, values: np.ndarray, out: np.ndarray) -> None: ...
def multiply(isa: str, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None: ...
def rotate(
    isa: str,
    values: np.ndarray,
    cosine: np.ndarray,
    sine: np.ndarray,
    adjacent: bool,
    out: np.ndarray,
) -> None: ...
def attend(
    isa: str,
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None: ...
def measure(
    isa: str, values: np.ndarray
) -> tuple[int, int, int, int, float, float, float, float]: ...
