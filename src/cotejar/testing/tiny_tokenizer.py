"""A small byte-level BPE: three special tokens, every byte, a few merges, and padding."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# `Ġ` is a space, as byte-level BPE spells it.
_MERGES = ("t h", "th e", "i n", "e r", "Ġ a", "Ġ the", "o n", "h e", "l l", "he ll", "hell o")


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyVocabulary:
    """The tables of the tokenizer."""

    tokens: tuple[str, ...]
    """By id."""
    merges: tuple[str, ...]
    num_unused: int
    """Tokens at the end that only fill the model's vocabulary."""

    def huggingface_json(self) -> str:
        """The text of a `tokenizer.json`."""
        pairs = [(left, right) for left, right in (m.split(" ") for m in self.merges)]
        ids = {token: index for index, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        text: str = tokenizer.to_str()
        return text


def make_vocabulary(vocab_size: int) -> TinyVocabulary:
    """Fill a vocabulary of that size.

    Raises:
        ValueError: it is too small for the bytes and the merges.
    """
    words = [merge.replace(" ", "") for merge in _MERGES]
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    num_unused = vocab_size - len(tokens)
    if num_unused < 0:
        raise ValueError(f"a tokenizer needs {len(tokens)} tokens, vocab_size is {vocab_size}")
    tokens += [f"<|unused_{index}|>" for index in range(num_unused)]
    return TinyVocabulary(tokens=tuple(tokens), merges=_MERGES, num_unused=num_unused)
