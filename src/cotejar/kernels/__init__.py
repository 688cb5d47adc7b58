"""Matrix products over weights that stay in their blocks.

`products` is the face and states the arithmetic; `integer_products` and `lane_products`
are its numpy implementation. Whatever implements the face gives the same bits in `q8`.
"""
