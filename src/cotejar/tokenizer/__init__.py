"""Text <-> token ids and chat templates, from nothing but a model's own metadata.

`spec` reads what a model file says of its tokenizer, `tokenizer` turns text into ids and
back, `chat` renders the model's chat template in a sandbox.

Ids are those of the model's own tokenizer. The tests compare them with llama.cpp's; the few
places where llama.cpp departs from the model are named in `pre_tokenizer` and
`special_tokens`.
"""
