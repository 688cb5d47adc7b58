"""Known ways to be wrong, a module a family; each makes alternatives of one operation.

| package      | what goes wrong                                                          |
| ------------ | ------------------------------------------------------------------------ |
| `attention`  | scores, masks, heads, keys that are seen                                 |
| `rotation`   | RoPE, and what each head passes before and after it                      |
| `function`   | norms, activations, the residual stream, value by value                  |
| `weight`     | a product: the weight, its order, its bias, its input                    |
| `blocks`     | blocks of a quantised weight: codes, scales, their order                 |
| `precision`  | roundings and sums that no numerics declares                             |
| `cache`      | what was written to the KV cache and read from it, by pass and step      |
| `unrecorded` | all of these in what nobody recorded, told by the next site              |
| `product`    | nothing by itself: what the families of products share                   |

`cotejar.diagnosis.search` lists the families in the order in which they are asked.
"""
