"""The KV cache: keys after RoPE, and values, of the positions that can still be seen.

It stores float32, float16 or Q8_0 blocks; attention reads float32 whatever is stored, so
that a position's first use has the same bits as its last. A layer with a sliding window
keeps what its window can still reach.

Shape letters: T new tokens, S tokens that are kept, K key/value heads, E head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.errors import UsageError
from cotejar.kernels import _compiled
from cotejar.kernels.arrays import empty_array
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float32, UInt8

    from cotejar.model.config import DecoderConfig

FIRST_CAPACITY_TOKENS = 128
ROWS_TOGETHER = 32
"""Capacities are multiples of it, so that keys and values begin at whole cache lines."""
BLOCK_TYPES = {"f32": BlockType.F32, "f16": BlockType.F16, "q8_0": BlockType.Q8_0}
KV_TYPES = tuple(BLOCK_TYPES)
HUGE_PAGE_BYTES = 2 << 20
"""Of memory where a layer takes less, no page stays unused."""
BLOCK = 32
"""Values in a Q8_0 block."""


class KVCache:
    """Keys and values of one growing context.

    Raises:
        UsageError: Q8_0 where a row of all heads is no whole number of blocks.
    """

    def __init__(self, config: DecoderConfig, kv_type: str = "f32") -> None:
        width = config.num_kv_heads * config.head_dim
        if kv_type not in KV_TYPES or (kv_type == "q8_0" and width % BLOCK):
            raise UsageError(
                f"the KV cache of this model cannot be {kv_type}",
                where="KV cache type",
                expected="f32 or f16" if width % BLOCK else ", ".join(KV_TYPES),
                found=kv_type,
                hint=f"Q8_0 needs a multiple of {BLOCK} values a token; here are {width}",
            )
        self.num_tokens = 0
        """Positions that were run, kept or not."""
        self.kv_type = kv_type
        windows = map(config.window_of, range(config.num_layers))
        shape = (config.num_kv_heads, config.head_dim)
        self._layers = [LayerCache(shape, kv_type, window) for window in windows]
        self._compiled: _compiled.Cache | None = None
        self._compiled_keys: np.ndarray | None = None

    def extend(
        self,
        layer: int,
        k_TKE: Float32[np.ndarray, "T K E"],
        v_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "S K E"], Float32[np.ndarray, "S K E"]]:
        """Add one layer's new rows after the old ones; return all that are kept.

        `num_tokens` moves on when every layer has been extended: see `advance`.
        """
        if self._layers[layer].num_bytes_to_grow(self.num_tokens, len(k_TKE)):
            self._make_room(len(k_TKE))
        return self._layers[layer].extend(self.num_tokens, k_TKE, v_TKE)

    def places_for(
        self, layer: int, num_tokens: int
    ) -> tuple[Float32[np.ndarray, "T K E"], Float32[np.ndarray, "T K E"]] | None:
        """Where a layer's next rows will be, for who can make them there; `extend` follows.

        None where they are stored in another form than they are made in.
        """
        if self.kv_type != "f32":
            return None
        if self._layers[layer].num_bytes_to_grow(self.num_tokens, num_tokens):
            self._make_room(num_tokens)
        return self._layers[layer].places_for(self.num_tokens, num_tokens)

    def row_for_next(self) -> tuple[int, _compiled.Cache]:
        """Make room for one position; its row, and every layer's keys and values.

        For layers of one window alone, so that they grow together and the row is the same
        everywhere.
        """
        first = self._layers[0]
        if self._compiled is None or not first.has_room(self.num_tokens, self._compiled_keys):
            self._make_room(1)
            self._compiled_keys = first.keys
            self._compiled = _compiled.Cache(
                BLOCK_TYPES[self.kv_type],
                first.width,
                [layer.keys.view(np.uint8) for layer in self._layers],
                [layer.values.view(np.uint8) for layer in self._layers],
            )
        return first.row_of(self.num_tokens), self._compiled

    def _make_room(self, num_tokens: int) -> None:
        sizes, memory = self.room_for(num_tokens)
        self.move_to(memory, sizes)

    def room_for(self, num_tokens: int) -> tuple[list[int], Float32[np.ndarray, "n"]]:
        """Bytes that every layer needs to have rows for so many positions more, and memory.

        Layers that grow share one piece of memory: it is taken and given back as a whole, and
        so the next context finds pages that the system has already handed out.
        """
        sizes = [layer.num_bytes_to_grow(self.num_tokens, num_tokens) for layer in self._layers]
        return sizes, empty_array((sum(sizes) // 4,))

    def move_to(self, memory: Float32[np.ndarray, "n"], sizes: list[int]) -> None:
        """Have the layers that grow go on in that memory."""
        raw, stops = memory.view(np.uint8), np.cumsum(sizes)
        for layer, stop, size in zip(self._layers, stops, sizes, strict=True):
            if size:
                layer.move_to(raw[stop - size : stop], self.num_tokens)

    def advance(self, num_tokens: int) -> None:
        """Every layer holds `num_tokens` more."""
        self.num_tokens += num_tokens

    def can_truncate(self, num_tokens: int) -> bool:
        """Does every layer still keep what a context of `num_tokens` needs?"""
        return all(layer.can_truncate(num_tokens) for layer in self._layers)

    def truncate(self, num_tokens: int) -> None:
        """Forget every position from `num_tokens` on.

        Raises:
            UsageError: there are fewer, or a window has left behind what they need.
        """
        if not (0 <= num_tokens <= self.num_tokens and self.can_truncate(num_tokens)):
            raise UsageError(
                "the KV cache cannot go back so far",
                where="KV cache",
                expected=f"at most {self.num_tokens} tokens, and what windows still keep",
                found=f"{num_tokens} tokens",
                hint="run the text from its beginning in a new session",
            )
        self.num_tokens = num_tokens
        for layer in self._layers:
            layer.truncate(num_tokens)

    @property
    def num_bytes(self) -> int:
        """Of all that is stored, spare rows included."""
        return sum(layer.num_bytes for layer in self._layers)

    def state(self) -> dict[str, np.ndarray]:
        """What is kept, as stored, by name: enough to go on elsewhere."""
        return {
            f"layer.{index}.{name}": rows
            for index, layer in enumerate(self._layers)
            for name, rows in layer.state(self.num_tokens).items()
        }

    def load_state(self, num_tokens: int, state: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave of a context of `num_tokens`.

        Raises:
            UsageError: it is not of such a cache.
        """
        for index, layer in enumerate(self._layers):
            keys, values = (state.get(f"layer.{index}.{name}") for name in ("keys", "values"))
            if keys is None or values is None or not layer.load(num_tokens, keys, values):
                raise UsageError(
                    "the saved state is not of this model's KV cache",
                    where=f"layer {index}",
                    expected=f"{self.kv_type} keys and values that {num_tokens} tokens leave",
                    found=", ".join(
                        "nothing" if rows is None else f"{rows.shape} {rows.dtype}"
                        for rows in (keys, values)
                    ),
                    hint="save it again with the same model, numerics and KV type",
                )
        self.num_tokens = num_tokens


def make_room_together(parts: Sequence[tuple[KVCache, int]]) -> None:
    """Have rows for so many positions more in every cache.

    All threads have the system make the pages, which takes it longer than filling them: left
    to whoever writes first, it is one thread.
    """
    rooms = [(cache, *cache.room_for(num_tokens)) for cache, num_tokens in parts]
    _compiled.make_pages(
        [memory for _, sizes, memory in rooms if max(sizes) <= HUGE_PAGE_BYTES]
    )
    for cache, sizes, memory in rooms:
        cache.move_to(memory, sizes)


class LayerCache:
    """Keys and values of one layer, from position `first` on."""

    def __init__(self, shape: tuple[int, int], kv_type: str, window: int | None) -> None:
        self._shape = shape
        self._kv_type = kv_type
        self._window = window
        self._first = 0
        width = shape[0] * shape[1]
        self.width = width
        self._row = width
        self._dtype: np.dtype[Any] = np.dtype(np.float16 if kv_type == "f16" else np.float32)
        if kv_type == "q8_0":
            self._row = BlockType.Q8_0.bytes_per_block * (width // BLOCK)
            self._dtype = np.dtype(np.uint8)
        self._stores = {
            name: np.empty((0, self._row), self._dtype) for name in ("keys", "values")
        }

    @property
    def num_bytes(self) -> int:
        """Stored, spare rows included."""
        return sum(store.nbytes for store in self._stores.values())

    def extend(
        self,
        start: int,
        k_TKE: Float32[np.ndarray, "T K E"],
        v_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "S K E"], Float32[np.ndarray, "S K E"]]:
        """Put rows at position `start` and on; return what is kept up to them."""
        begin = start - self._first
        stop = begin + len(k_TKE)
        for name, rows in (("keys", k_TKE), ("values", v_TKE)):
            place = self._stores[name][begin:stop]
            encoded = self._encode(rows)
            if not _is_there(encoded, place):
                place[:] = encoded
        return self._decode("keys", stop), self._decode("values", stop)

    def places_for(
        self, start: int, num_tokens: int
    ) -> tuple[Float32[np.ndarray, "T K E"], Float32[np.ndarray, "T K E"]]:
        """Of keys and values from position `start` on, for which there is room."""
        rows = slice(start - self._first, start - self._first + num_tokens)
        shape = (num_tokens, *self._shape)
        return self.keys[rows].reshape(shape), self.values[rows].reshape(shape)

    def num_bytes_to_grow(self, start: int, num_tokens: int) -> int:
        """Memory that rows for so many positions from `start` on need; 0 where they have it."""
        if self._window is not None:
            self._drop_unseen(start)
        needed, capacity = start - self._first + num_tokens, len(self.keys)
        if needed <= capacity:
            return 0
        rows = max(needed, 2 * capacity, FIRST_CAPACITY_TOKENS)
        rows += -rows % ROWS_TOGETHER
        return 2 * rows * self._row * self._dtype.itemsize

    def move_to(self, memory: UInt8[np.ndarray, "Y"], start: int) -> None:
        """Keep the rows before position `start` in other memory, keys first."""
        begin = start - self._first
        size = len(memory) // 2
        for name, half in zip(self._stores, (memory[:size], memory[size:]), strict=True):
            grown = half.view(self._dtype).reshape(-1, self._row)
            grown[:begin] = self._stores[name][:begin]
            self._stores[name] = grown

    def has_room(self, position: int, keys: np.ndarray | None) -> bool:
        """Is there a row for it in these keys, which are still the layer's?"""
        return self.keys is keys and self.row_of(position) < len(keys)

    def row_of(self, position: int) -> int:
        """Where it is kept."""
        return position - self._first

    @property
    def keys(self) -> np.ndarray:
        """As stored, spare rows included."""
        return self._stores["keys"]

    @property
    def values(self) -> np.ndarray:
        """As stored, spare rows included."""
        return self._stores["values"]

    def can_truncate(self, num_tokens: int) -> bool:
        """Is all that position `num_tokens` sees still here?"""
        return num_tokens == 0 or self._first <= self._first_seen(num_tokens)

    def truncate(self, num_tokens: int) -> None:
        """Forget the rows from `num_tokens` on."""
        self._first = min(self._first, num_tokens)  # of nothing, nothing was dropped

    def state(self, num_tokens: int) -> dict[str, np.ndarray]:
        """The rows that a context of `num_tokens` still sees, as stored."""
        first = self._first_seen(num_tokens)
        begin, stop = first - self._first, num_tokens - self._first
        return {name: store[begin:stop].copy() for name, store in self._stores.items()}

    def load(self, num_tokens: int, keys: np.ndarray, values: np.ndarray) -> bool:
        """Take rows over; False if they are not of such a layer."""
        first = self._first_seen(num_tokens)
        shape = (num_tokens - first, self._row)
        if any(a.shape != shape or a.dtype != self._dtype for a in (keys, values)):
            return False
        self._first = first
        self._stores = {"keys": keys.copy(), "values": values.copy()}
        return True

    def _first_seen(self, num_tokens: int) -> int:
        """The first position that the one at `num_tokens` attends to."""
        return 0 if self._window is None else max(0, num_tokens - self._window + 1)

    def _drop_unseen(self, start: int) -> None:
        # Only when half of it is of no use, so that a long text moves each row about once.
        unseen = self._first_seen(start) - self._first
        kept = start - self._first - unseen
        if unseen > max(kept, FIRST_CAPACITY_TOKENS):
            for name, store in self._stores.items():
                self._stores[name] = store[unseen : unseen + kept].copy()
            self._first += unseen

    def _encode(self, rows_TKE: Float32[np.ndarray, "T K E"]) -> np.ndarray:
        if self._kv_type == "q8_0":
            return _encode_q8_0(rows_TKE.reshape(-1)).reshape(len(rows_TKE), self._row)
        return rows_TKE.reshape(len(rows_TKE), self._row)

    def _decode(self, name: str, stop: int) -> Float32[np.ndarray, "S K E"]:
        kept = self._stores[name][:stop]
        if self._kv_type == "q8_0":
            values = decode(BlockType.Q8_0, kept.reshape(-1), stop * self.width)
        else:
            values = kept.astype(np.float32, copy=False)
        return values.reshape(stop, *self._shape)


def _is_there(rows: np.ndarray, place: np.ndarray) -> bool:
    """Are these the very numbers in memory? They were made in their place."""
    same_order = rows.strides == place.strides and rows.dtype == place.dtype
    # Asking for the address takes five times as long.
    return same_order and np.may_share_memory(rows[:1, :1], place[:1, :1])


def _encode_q8_0(values: Float32[np.ndarray, "n"]) -> np.ndarray:
    """Blocks of a broken model too: one that holds a NaN or an infinity reads as NaN."""
    is_finite = np.isfinite(values)
    raw = encode(BlockType.Q8_0, np.where(is_finite, values, np.float32(0)))
    is_broken = ~is_finite.reshape(-1, BLOCK).all(axis=1)
    if is_broken.any():
        raw = raw.copy()
        blocks = raw.reshape(len(is_broken), -1)
        blocks[is_broken, :2] = np.array([np.nan], np.float16).view(np.uint8)
    return raw
