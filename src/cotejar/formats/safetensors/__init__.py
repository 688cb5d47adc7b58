"""safetensors, and the Hugging Face folder around it: read for import.

`header` takes one `.safetensors` file apart, `folder` finds the files of a model, and
`reader` opens the whole. Traces are safetensors too, written and read with the library of
that name; this reader is for weights.
"""
