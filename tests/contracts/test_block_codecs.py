"""contracts/block-codecs-v1.yaml: how many bytes a tensor takes."""

from __future__ import annotations

import gguf
import pytest

from cotejar.quant.block_type import BlockType

GGML_TYPES = [one for one in BlockType if one < 64]


@pytest.mark.parametrize("block_type", GGML_TYPES, ids=lambda one: one.label)
def test_falsify_007_sizes_are_those_of_gguf_for_every_count(block_type: BlockType) -> None:
    per_block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(block_type.value)]

    sizes = [block_type.num_bytes(n) for n in range(1025)]

    # Whole blocks, and a part of one counts as one.
    assert sizes == [(n + per_block - 1) // per_block * num_bytes for n in range(1025)]
    assert sizes == sorted(sizes)


def test_every_type_of_the_gguf_package_that_is_a_float_or_common_is_here() -> None:
    """The promise above is about all of these types, not about those that were easy."""
    wanted = [
        "F32",
        "F16",
        "BF16",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
    ]

    assert {one.label: one.value for one in GGML_TYPES} == {
        name: gguf.GGMLQuantizationType[name].value for name in wanted
    }
