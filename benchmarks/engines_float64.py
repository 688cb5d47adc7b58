"""transformers in float64 as it is, against the oracle: what its float32 steps cost.

transformers computes RMSNorm, the softmax of attention and the rotary tables in float32,
whatever the model's type. Here each of the three is computed in float64 in turn, and each is
left in float32 alone: what remains of the distance says which step makes it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from engines_table import Bar, table, yes_or_no
from torch.overrides import TorchFunctionMode

from cotejar.engines.oracle import OracleEngine
from cotejar.engines.transformers.load import load_model
from cotejar.engines.transformers.observation import observe
from cotejar.engines.transformers.widening import Float64Everywhere
from cotejar.parity.noise_measure import CAPTURE
from cotejar.trace.forward_trace import TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engines_table import Part

    from cotejar.model.language_model import LanguageModel

STEPS = ("norms", "softmax", "rotary tables")
VARIANTS = (
    ("transformers as it is", ()),
    *((f"{step} in float64", (step,)) for step in STEPS),
    *((f"{step} alone in float32", tuple(s for s in STEPS if s != step)) for step in STEPS),
    ("all three in float64", STEPS),
)
"""A title, and the steps that are computed in float64."""
MAX_AS_IT_IS, MAX_WIDENED = 1e-6, 1e-9
"""Relative L2 of any token at any site."""


def compare_float64(model: LanguageModel, token_ids: Sequence[int]) -> Part:
    """The shares, and the two bars on the first and the last of `VARIANTS`."""
    exact = OracleEngine(model).trace(token_ids, capture=CAPTURE).arrays
    module = load_model(model, "f64")
    rows, worst = [], {}
    for title, widened in VARIANTS:
        recorder = TraceRecorder(CAPTURE)
        with widening(module, widened):
            observe(module, token_ids, recorder)
        token, token_site, whole, whole_site = farthest(exact, recorder.arrays)
        worst[title] = f"{token:.2e} at {token_site}; {whole:.2e} of a whole array", token
        rows.append((title, f"{token:.2e}", token_site, f"{whole:.2e}", whole_site))
    of = f"oracle against transformers+f64, {model.name}, {len(token_ids)} tokens"
    bars = [
        Bar(
            of=f"{of}, {title}",
            bar=f"relative L2 <= {limit:.0e} at every site and token",
            found=worst[title][0],
            kept=yes_or_no(worst[title][1] <= limit),
        )
        for title, limit in ((VARIANTS[0][0], MAX_AS_IT_IS), (VARIANTS[-1][0], MAX_WIDENED))
    ]
    head = ("computed", "worst token", "at", "worst whole array", "at")
    lines = [
        f"## transformers in float64 against the oracle, {model.name}",
        "",
        "Relative L2; a whole array is all tokens of one site together.",
        "",
        *table(head, rows),
    ]
    return bars, lines


def farthest(
    exact: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
) -> tuple[float, str, float, str]:
    """The worst token of any site, and the worst site as a whole."""
    token, whole = (0.0, ""), (0.0, "")
    for site, exact_TW in exact.items():
        error_T = ((found[site].astype(np.float64) - exact_TW) ** 2).sum(axis=1)
        size_T = (exact_TW**2).sum(axis=1)
        token = max(token, (float(np.sqrt((error_T / size_T).max())), site))
        whole = max(whole, (float(np.sqrt(error_T.sum() / size_T.sum())), site))
    return *token, *whole


@contextlib.contextmanager
def widening(module: Any, steps: Sequence[str]) -> Iterator[None]:
    """For the length of the block, these steps of a model in float64 compute in float64.

    The tables need their frequencies in float64, too: those that `load_model` made for `f64`.
    As transformers makes them by itself they are float32.
    """
    rotary = module.model.rotary_emb
    wide = rotary.inv_freq
    norms = [m for m in module.modules() if type(m).__name__.endswith("RMSNorm")]
    chosen = (norms if "norms" in steps else []) + ([rotary] if STEPS[2] in steps else [])
    hooks = [hook for part in chosen for hook in _in_float64(part)]
    if STEPS[2] not in steps:
        rotary.inv_freq = type(rotary)(module.config).inv_freq
    try:
        with _SoftmaxInFloat64() if "softmax" in steps else contextlib.nullcontext():
            yield
    finally:
        rotary.inv_freq = wide
        for hook in hooks:
            hook.remove()


def _in_float64(part: Any) -> list[Any]:
    mode = Float64Everywhere()
    return [
        part.register_forward_pre_hook(lambda *_: mode.__enter__() and None),
        part.register_forward_hook(lambda *_: mode.__exit__(None, None, None)),
    ]


class _SoftmaxInFloat64(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        named = dict(kwargs or {})
        if func.__name__ == "softmax":
            named["dtype"] = torch.float64
        return func(*args, **named)
