"""The script of a reproduction: the operation in a few lines of numpy, and the verdict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_START = '''"""{site}, as the {side} computed it; needs numpy alone.

    python show.py

Computes the operation again in float64 from the input that was recorded, for one token, and
says how far off the recorded output is. Exits 1 where that is more than honest arithmetic.
"""

from pathlib import Path

import numpy as np

data = dict(np.load(Path(__file__).with_name("data.npz")))


'''

_END = """

expected = operation()
off = float(np.linalg.norm(data["recorded"] - expected))
allowed = float(data["allowed"])
print({heading})
print(f"  recorded, against float64      off by {{off:.3e}}  (honest: {{allowed:.3e}})")
if "with_the_cause" in data:
    left = float(np.linalg.norm(data["recorded"] - data["with_the_cause"]))
    print(f"  recorded, against the cause    off by {{left:.3e}}")
    print({cause})
raise SystemExit(0 if off <= allowed else 1)
"""

_NORM = '''def operation():
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight."""
    x = data["input_0"]
    return x / np.sqrt(np.mean(x * x) + data["eps"]) * data["weight"]
'''

_PROJECT = '''def operation():
    """A few rows of the weight times the input, as the engine rounds it, and the bias."""
    output = data["weight_rows"] @ data["as_multiplied"]
    if "block_excess" in data:  # Q8_1 keeps the sum of a block apart, in float16
        output = output + data["block_offsets"] @ data["block_excess"]
    output = output + data.get("bias", 0.0)
    if "softcap" in data:
        output = data["softcap"] * np.tanh(output / data["softcap"])
    return output
'''

_ROTATE = '''def operation():
    """RoPE: pair (i, i + P) of every head turns by position * frequency i."""
    heads = data["input_0"].reshape(-1, int(data["head_dim"]))
    if "weight" in data:  # the RMSNorm of each head comes first
        square = np.mean(heads * heads, axis=1, keepdims=True)
        heads = heads / np.sqrt(square + data["eps"]) * data["weight"]
    angles = float(data["position"]) * data["frequencies"]
    pairs = len(angles)
    first, second = heads[:, :pairs], heads[:, pairs : 2 * pairs]
    turned = [
        first * np.cos(angles) - second * np.sin(angles),
        second * np.cos(angles) + first * np.sin(angles),
        heads[:, 2 * pairs :],
    ]
    return np.concatenate(turned, axis=1).reshape(-1)
'''

_ATTEND = '''def operation():
    """The last query over all keys: softmax(q k scale) v, head by head."""
    e = int(data["head_dim"])
    query = data["query"].reshape(-1, e)
    keys = data["keys"].reshape(len(data["keys"]), -1, e)
    values = data["values"].reshape(len(keys), -1, e)
    if "window" in data:
        keys, values = keys[-int(data["window"]) :], values[-int(data["window"]) :]
    context = []
    for head, kv_head in enumerate(data["key_heads"]):
        scores = keys[:, kv_head] @ query[head] * data["scale"]
        if "softcap" in data:
            scores = data["softcap"] * np.tanh(scores / data["softcap"])
        weights = np.exp(scores - scores.max())
        context.append(weights / weights.sum() @ values[:, kv_head])
    return np.concatenate(context)
'''

_ADD = '''def operation():
    """The residual stream plus the branch."""
    return data["input_0"] + data["input_1"]
'''

_MULTIPLY = '''def operation():
    """The activated gate times up."""
    return data["input_0"] * data["input_1"]
'''

_ACTIVATE = '''def operation():
    """The activation of the gate."""
    x = data["input_0"]
    if str(data["function"]) == "silu":
        return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
'''

_EMBED = '''def operation():
    """The token's row of the embedding table, times the model's scale."""
    return data["row"]
'''

SCRIPTS = {
    "Embed": _EMBED,
    "Norm": _NORM,
    "Project": _PROJECT,
    "Rotate": _ROTATE,
    "Attend": _ATTEND,
    "Add": _ADD,
    "Activate": _ACTIVATE,
    "Multiply": _MULTIPLY,
}
"""The operation, by the name of its step."""


def script_text(operation: str, facts: Mapping[str, object]) -> str:
    """The whole script; facts that come from files enter it as quoted text alone."""
    heading = f"{facts['site']} of the {facts['side']}, token {facts['token']}"
    return (
        _START.format(site=facts["site"], side=facts["side"])
        + operation
        + _END.format(
            heading=json.dumps(heading), cause=json.dumps(f"  cause: {facts['cause']}")
        )
    )
