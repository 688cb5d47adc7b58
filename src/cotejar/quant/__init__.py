"""Block types: bytes to float32 and back, numpy, exact.

`codec` is the face: `decode`, `decode_rows`, `encode`. A module a family holds the
layout and the arithmetic of its types. `block_matrix` is a weight matrix that stays in
its blocks; `activations` rounds activations to blocks as ggml does before integer dots.
"""
