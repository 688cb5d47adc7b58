"""Matrix products over weights that stay in their blocks.

`products` is the face and states the arithmetic. `compiled/` holds the C++ that does the
work, one table of functions an instruction set; `integer_products` and `lane_products` are
the same arithmetic in numpy. All of them give the same bits.
"""
