"""A cache that is read in splits, whose contexts are put together wrongly.

Shape letters: T tokens, H heads, E head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import weigh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader

_SIZES = (2, 4, 8, 16, 32, 64, 128)


def split_alternatives(reader: CacheReader) -> Iterator[Alternative]:
    """Each split's own softmax, and the plain mean of what they give.

    Splits are put together by their sums below (Dao et al., 2023, Flash-Decoding).
    """
    attended = reader.attended
    for size in _SIZES:
        if size >= len(attended.q):
            return
        context_THE = reader.without_faults.copy()
        for position in range(reader.first, len(context_THE)):
            rows = np.array(reader.right(position))
            parts = [rows[rows // size == n] for n in dict.fromkeys((rows // size).tolist())]
            for head, kv in enumerate(attended.heads):
                q = attended.q[position : position + 1, head]
                k, v = attended.k[:, kv], attended.v[:, kv]
                given = [weigh(attended.scores(q, k[part])) @ v[part] for part in parts]
                context_THE[position, head] = np.mean(given, axis=0)[0]
        yield Alternative(
            id="softmax-not-rescaled",
            title=f"steps read the cache in splits of {size} slots and take the plain mean of "
            "what those give, not one weighed by the sums of their softmax",
            output=exact.join_heads(context_THE),
        )
