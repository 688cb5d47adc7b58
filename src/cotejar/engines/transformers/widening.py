"""Float64 where transformers' code says float32.

transformers computes RMSNorm, the softmax of attention and the rotary tables in float32,
whatever the model's type. In a run in float64 those steps would be all of its error: 24 bits
among 53, up to 6e-6 of a token at a site of Qwen 0.5B. So the numerics `f64` answer a
request for float32 with float64, through torch's own interface for that, a mode that sees
every call. Which operations run, and in which order, stays transformers' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Float64Everywhere(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    """For the length of the block, in this thread, a float32 asked for is a float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call torch with the wider type."""
        del types
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        named = {key: _widen(value) for key, value in (kwargs or {}).items()}
        return func(*[_widen(value) for value in args], **named)


def _widen(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
