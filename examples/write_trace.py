"""Write a trace file from another program's activations, with numpy and safetensors alone.

    python write_trace.py activations.npz model.json theirs.trace

activations.npz  one array a site, tokens x width (`layer.0.ffn_gate`), and `token_ids`
model.json       `apr trace MODEL --payload --json` of the same model file: who it is
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# Where this program reads, in the words of docs/trace-file.md; in its own, where elsewhere.
CAPTURE_POINTS = {
    "embed": "rows of the embedding table, one a token, times the model's scale if it has one",
    "attn_norm": "after the RMSNorm before attention, times its weight",
    "qkv": "q, k and v side by side, after bias, before RoPE; half-split head order",
    "attn_out": "after the output projection and its bias, before a norm and the residual",
    "ffn_norm": "after the RMSNorm before the feed-forward, times its weight",
    "ffn_gate": "gate projection, after bias, before the activation",
    "ffn_up": "up projection, after bias",
    "ffn_silu_gate": "activation of the gate projection: SiLU, or what the model has",
    "ffn_swiglu_inner": "activation of the gate times up, before the down projection",
    "ffn_out": "after the down projection and its bias, before a norm and the residual",
    "output": "after the feed-forward's residual addition",
    "final_norm": "after the last RMSNorm, times its weight",
    "logits": "LM head, every position",
}
activations, model_json, output = sys.argv[1:]
arrays = dict(np.load(activations))
token_ids = arrays.pop("token_ids").tolist()
model = json.loads(Path(model_json).read_text(encoding="utf-8"))["manifest"]
manifest = {
    "schema_version": "1",
    "engine": {"name": "theirs", "build": "1.0", "numerics": "f32", "device": "cpu"},
    "model": model["model"],
    "config": model["config"],
    "token_ids": token_ids,
    "positions": list(range(len(token_ids))),
    "not_observed": ["q", "k", "v", "q_rope", "k_rope", "attn_context", "attn_residual"],
    "sites": [
        {"site": s, "scopes": ["all"], "capture_point": CAPTURE_POINTS[s.split(".")[-1]]}
        for s in arrays
    ],
}
save_file(arrays, output, metadata={"cotejar.trace": json.dumps(manifest)})
