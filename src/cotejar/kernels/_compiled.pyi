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
def multiply_w8a8(
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
def multiply_bf16(
    isa: str,
    block_type: int,
    raw: np.ndarray,
    rows: int,
    columns: int,
    activations: np.ndarray,
    out: np.ndarray,
) -> None: ...

# `ready`, `absent`, `refused` by the operating system, or `different` in its bits.
def amx_state() -> str: ...

# What AMX must pass before it is used; `fault` is a value to spoil first, or -1.
def passes_self_test(isa: str, fault: int) -> bool: ...
def rms_norm(
    isa: str, values: np.ndarray, weight: np.ndarray, eps: float, out: np.ndarray
) -> None: ...
def silu(isa: str, values: np.ndarray, out: np.ndarray) -> None: ...
def make_pages(arrays: list[np.ndarray]) -> None: ...
def first_greatest(isa: str, values: np.ndarray) -> list[int]: ...
def multiply(isa: str, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None: ...
def rotate(
    isa: str,
    values: list[np.ndarray],
    cosine: np.ndarray,
    sine: np.ndarray,
    adjacent: bool,
    out: list[np.ndarray],
    measured: bool = False,
) -> bytes | None: ...
def attend(
    isa: str,
    queries: np.ndarray,
    tokens: list[int],
    keys: list[np.ndarray],
    values: list[np.ndarray],
    window: int,
    out: np.ndarray,
    in_float32: bool = False,
) -> None: ...
def swiglu(isa: str, gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None: ...
def add(isa: str, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None: ...
def measure(isa: str, values: np.ndarray) -> bytes: ...
def multiply_together(
    isa: str,
    linears: list[Linear],
    activations: np.ndarray,
    measured: bool,
    out: list[np.ndarray],
) -> bytes | None: ...
def multiply_and_add(
    isa: str,
    linear: Linear,
    activations: np.ndarray,
    residual: np.ndarray,
    measured: bool,
    of_input: bool,
    out: np.ndarray,
) -> bytes | None: ...
def multiply_gated(
    isa: str,
    gate: Linear,
    up: Linear,
    activations: np.ndarray,
    measured: bool,
    out: np.ndarray,
) -> bytes | None: ...
def can_feed_forward(down: Linear) -> bool: ...
def feed_forward(
    isa: str,
    gate: Linear,
    up: Linear,
    down: Linear,
    activations: np.ndarray,
    residual: np.ndarray,
    measured: bool,
    out: np.ndarray,
) -> bytes | None: ...
def has_vector_kernel(isa: str, block_type: int) -> bool: ...

class Linear:
    def __init__(
        self,
        block_type: int,
        raw: np.ndarray,
        rows: int,
        columns: int,
        bias: np.ndarray | None,
        grouped: bool = False,
    ) -> None: ...

class Cache:
    def __init__(
        self, block_type: int, width: int, keys: list[np.ndarray], values: list[np.ndarray]
    ) -> None: ...

class Decoder:
    def __init__(
        self,
        isa: str,
        heads: int,
        kv_heads: int,
        head_size: int,
        pairs: int,
        adjacent: bool,
        window: int,
        eps: float,
        embedding: Linear,
        final_norm: np.ndarray,
        lm_head: Linear,
    ) -> None: ...
    def add_layer(
        self,
        attn_norm: np.ndarray,
        ffn_norm: np.ndarray,
        q_norm: np.ndarray | None,
        k_norm: np.ndarray | None,
        q: Linear,
        k: Linear,
        v: Linear,
        o: Linear,
        gate: Linear,
        up: Linear,
        down: Linear,
    ) -> None: ...
    def step(
        self,
        token_ids: list[int],
        cosine: np.ndarray,
        sine: np.ndarray,
        caches: list[Cache],
        rows: list[int],
        logits: np.ndarray,
        measured: bool = False,
    ) -> bytes | None: ...
