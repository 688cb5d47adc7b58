"""The extension built from `compiled/`; sizes are checked there before a byte is read.

Every function raises ValueError where sizes do not fit, TypeError where an array has
another dtype, is not contiguous or has other axes.
"""

import numpy as np

def isa_names() -> list[str]: ...
def set_num_threads(num_threads: int) -> None: ...
def num_threads() -> int: ...
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
