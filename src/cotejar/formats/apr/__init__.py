"""`.apr` version 2, the format of aprender's language models: read it and write it.

`layout` holds the bytes of the header and the numbers of the types, `tensor_index` the
index, `metadata_json` the metadata; `reader` and `writer` are made of these. `stage_file`
is a format of its own: one activation, saved by `apr trace --save-tensor`.
"""
