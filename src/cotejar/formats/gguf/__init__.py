"""GGUF, llama.cpp's model file: read versions 2 and 3, write version 3, little-endian.

Laid out as https://github.com/ggml-org/ggml/blob/master/docs/gguf.md says:

    0..4    magic         "GGUF"
    4..8    version       uint32
    8..16   tensor count  uint64
    16..24  key count     uint64
    then    keys          name, value type, value
    then    tensor table  name, number of dimensions, dimensions, type, offset
    then    padding up to the alignment, and the tensors' bytes, each aligned

A string is a uint64 length and so many bytes. The alignment is the key
`general.alignment`, or 32. Offsets of tensors count from the end of the first padding.
"""
