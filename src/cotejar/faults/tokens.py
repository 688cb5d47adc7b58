"""Other tokens than the prompt's.

All but one change the ids before the run, and the trace says what was run: such a pair is
INCOMPARABLE, with the ids as the reason. The one that does not say so is found in `embed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.faults.fault import (
    Extent,
    Fault,
    FaultyPass,
    Injection,
    in_the_pass,
    nothing_to_break,
)
from cotejar.faults.needs import ADDED_BOS, BOS, EARLIER_TOKEN, LEADING_BOS, TEMPLATE
from cotejar.tokenizer.chat import apply_chat
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from jaxtyping import Float32

    from cotejar.faults.dose import Dose
    from cotejar.faults.needs import ModelNeed, PromptNeed
    from cotejar.model.language_model import LanguageModel

    Change = Callable[[LanguageModel, list[int]], list[int]]


def _bos_extra(model: LanguageModel, ids: list[int]) -> list[int]:
    bos = model.tokenizer.bos_id
    return ids if bos is None else [bos, *ids]


def _bos_missing(model: LanguageModel, ids: list[int]) -> list[int]:
    lacking = LEADING_BOS.lacks(model, ids) if ids else "none"
    if lacking is not None:
        raise nothing_to_break("bos-missing", "ids that begin with the model's BOS", lacking)
    return ids[1:]


def _in_template(model: LanguageModel, ids: list[int]) -> list[int]:
    return apply_chat(model.tokenizer, model.tokenizer.decode(ids, skip_special=True))


def _last_dropped(_: LanguageModel, ids: list[int]) -> list[int]:
    return ids[:-1]


def _last_wrong(model: LanguageModel, ids: list[int]) -> list[int]:
    return [*ids[:-1], *((token + 1) % model.config.vocab_size for token in ids[-1:])]


class _LastEmbeddedWrong(FaultyPass):
    def embed(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "T D"]:
        return super().embed(_last_wrong(self.model, list(token_ids)))


def _fault(
    id_: str,
    title: str,
    change: Change,
    *,
    needs: tuple[ModelNeed, ...] = (),
    prompt_needs: tuple[PromptNeed, ...] = (),
) -> Fault:
    def inject(model: LanguageModel, _: Dose) -> Injection:
        return Injection(model=model, change_ids=lambda ids: change(model, ids))

    return Fault(
        id=id_,
        title=title,
        family="tokens",
        slot="tokens",
        extent=Extent.OUTSIDE,
        needs=needs,
        prompt_needs=prompt_needs,
        verdict=Verdict.INCOMPARABLE,
        inject=inject,
    )


TOKEN_FAULTS = (
    _fault("bos-extra", "one BOS too many", _bos_extra, needs=(BOS,)),
    _fault(
        "bos-missing",
        "the BOS is left out",
        _bos_missing,
        needs=(ADDED_BOS,),
        prompt_needs=(LEADING_BOS,),
    ),
    _fault(
        "template-applied",
        "the prompt is put into the chat template",
        _in_template,
        needs=(TEMPLATE,),
    ),
    _fault(
        "token-dropped",
        "the last token is dropped",
        _last_dropped,
        prompt_needs=(EARLIER_TOKEN,),
    ),
    _fault("token-wrong", "the last token is another", _last_wrong),
    Fault(
        id="token-embedded-wrong",
        title="the last token gets another's embedding",
        family="tokens",
        slot="embed",
        extent=Extent.OUTSIDE,
        inject=in_the_pass(_LastEmbeddedWrong),
    ),
)
