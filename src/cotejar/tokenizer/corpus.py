"""The texts over which tokenizers are compared: few, and each there for a way to be wrong.

A case is a text and how it is to be read: with BOS and EOS or without, special tokens parsed
or taken as text. Bytes that are no UTF-8 are a case for tokenizers that take bytes; messages
are one for those that render chat templates.
"""

# ruff: noqa: RUF001 - text in many scripts is the point
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import LimitError, MetadataError, NothingMeasuredError
from cotejar.formats.mapped_file import open_mapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    Messages = Sequence[Mapping[str, str]]

MAX_CORPUS_BYTES = 16 << 20
MAX_TEXT_BYTES = 32 << 10
"""Of one text: its ids fit into one answer of a child process."""
_LINES_A_TEXT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One text, and how it is read."""

    name: str
    text: str = ""
    data: bytes | None = None
    """Bytes in place of the text, for tokenizers that take bytes."""
    messages: Messages | None = None
    """Messages in place of the text, rendered by the model's chat template."""
    add_special: bool = True
    """With BOS and EOS, if the model wants them."""
    parse_special: bool = True
    """Special tokens that the text spells are taken for such."""

    @property
    def options(self) -> str:
        """How it is read, in words; empty for the usual way."""
        words = [] if self.add_special else ["no BOS, no EOS"]
        return ", ".join(words if self.parse_special else [*words, "special tokens as text"])


_TEXTS: Mapping[str, tuple[str, ...]] = {
    "empty": ("",),
    "plain words": (
        "What is 2+2?",
        "The quick brown fox, who didn't jump, said: 'I'm tired, they've won, we'll rest.'",
        "UPPER lower Title camelCase snake_case kebab-case SCREAMING_SNAKE",
    ),
    "contractions": ("I'M you'RE he'D we'LL they'VE it's 'tis o'clock rock'n'roll 'quoted'",),
    "digit runs": (
        "1 12 123 1234 12345 123456 1234567 00007",
        "3.14159 1,000,000 0x1F 1e-10 2026-11-26T14:52:15Z v10.20.30 (555) 0199",
        "２０２４ ٣٤٥ ४५ Ⅷ ½ ² x1y22z333",
    ),
    "spaces": (
        "two  spaces   three    four",
        " leading",
        "   leading three",
        "trailing ",
        "trailing three   ",
        " ",
        "    ",
        "a b\u00a0c\u2003d\u3000e\u200bf\u2028g",
    ),
    "tabs and newlines": (
        "a\tb\t\tc \td\t ",
        "line\nline\n\nline\n\n\nline\r\nline\r\n\r\n  \n \n\n",
        "\n",
        "\n\n\n",
        "end with newline\n",
    ),
    "code": (
        "def mean(xs: list[float]) -> float:\n    if not xs:\n        raise ValueError('empty')"
        "\n    return sum(xs) / len(xs)\n",
        "for (int i = 0; i < n && a[i] != 0; ++i) {\n\tb[i] += *p->q << 2;\n}\n",
        "SELECT COUNT(*) FROM t WHERE name LIKE '%x_' -- note",
        '{"key": [1, null, -2.5e3], "nested": {"a\\n": "\\u00e9"}}',
        '<div class="a b">&amp; text</div><!-- c -->',
        "https://example.org/path?q=a%20b&c=[1]#frag user@example.org ~/dir/*.txt $HOME `ls`",
    ),
    "CJK": (
        "今天的天气很好，我们去公园散步吧。",
        "東京は今日も雨です。カタカナとひらがな、漢字。",
        "오늘은 날씨가 좋아서 산책을 했습니다.",
        "混合mixed文字123と数字４５６",
    ),
    "other scripts": (
        "Привет, мир! Ёжик. Γειά σου Κόσμε. Ǆ ǅ ß ẞ İ ı",
        "नमस्ते दुनिया, यह क्षण है। สวัสดีชาวโลก ก็ได้",
    ),
    "emoji": (
        "😀 👍🏽 ❤️ ☎︎ 🇪🇸🇯🇵 1️⃣",
        "👨‍👩‍👧‍👦 👩🏾‍🚀 🏳️‍🌈 family",
        "text😀text😀😀",
    ),
    "combining marks": (
        "e\u0301 \u00e9 A\u030a \u00c5 o\u0308\u0323 \u1ecd\u0308",
        "Z\u0351\u036b\u0343a\u0329\u0323l\u0321g\u033fo",
        "ﬁ ﬂ Å K Ω ｆｕｌｌ ㎏ ①",
    ),
    "right to left": (
        "שלום עולם, זה מבחן.",
        "مرحبا بالعالم، هذا اختبار ١٢٣.",
        "left \u202bימין\u202c left \u200f\u200e",
    ),
    "special tokens": (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "<|endoftext|>",
        " <|endoftext|> x<|endoftext|><|endoftext|>",
        "<|im_end",
        "<s>a</s> <unk> <pad> [INST] [/INST] <bos> <eos>",
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|> <tool_call> </tool_call>",
        "<|begin_of_text|><|eot_id|><start_of_turn>user<end_of_turn>",
    ),
    "punctuation": (
        "!!! ... ??? --- *** ___ ### === >>> <<< ||| \\\\ // :: ;;",
        "“curly” ‘quotes’ — en–dash… «guillemets» ¿qué? ¡ay! §¶†‡•",
        "a.b,c;d:e!f?g(h)i[j]k{l}m'n\"o",
    ),
    "controls": ("a\x00b\x01c\x1bd\x7fe\x85f\ufeffg", "\u00ad\ufeff\ufffd"),
    "long words": ("a" * 300, "ab" * 200, " " * 200 + "x" + "\n" * 40, "é中😀" * 40),
}

_BAD_UTF8: Mapping[str, bytes] = {
    "a continuation byte alone": b"a\x80b",
    "a character cut short": "中".encode()[:2] + b" x",
    "an overlong form": b"\xc0\xaf",
    "half of a surrogate pair": b"\xed\xa0\x80",
    "a byte of no UTF-8": b"\xff\xfe text",
}

_CHATS: Mapping[str, Messages] = {
    "one question": ({"role": "user", "content": "What is 2+2?"},),
    "a system and turns": (
        {"role": "system", "content": "Be brief & exact."},
        {"role": "user", "content": " a\n\nb  "},
        {"role": "assistant", "content": "é中😀"},
        {"role": "user", "content": "def f():\n    return 12345\n"},
    ),
}


def built_in_corpus() -> tuple[Case, ...]:
    """Every text in the usual way, without BOS and EOS, and with special tokens as text."""
    cases = [*_cases_of((name, text) for name, texts in _TEXTS.items() for text in texts)]
    cases += [Case(name=f"bad UTF-8: {n}", data=data) for n, data in _BAD_UTF8.items()]
    cases += [Case(name=f"chat: {n}", messages=messages) for n, messages in _CHATS.items()]
    return tuple(cases)


def _cases_of(texts: Iterable[tuple[str, str]]) -> Iterator[Case]:
    for name, text in texts:
        yield Case(name=name, text=text)
        yield Case(name=name, text=text, add_special=False)
        yield Case(name=name, text=text, parse_special=False)


def read_corpus(path: Path) -> tuple[Case, ...]:
    """Cut a UTF-8 file of at most 16 MiB into texts of a few lines each.

    Raises:
        FileError: the file cannot be read.
        LimitError: it is larger, or has a line of more than 32 KiB.
        MetadataError: it is not UTF-8.
        NothingMeasuredError: it holds nothing.
    """
    if path.is_file() and not path.stat().st_size:
        raise _nothing(path)
    with open_mapped(path) as mapped:
        if mapped.size_bytes > MAX_CORPUS_BYTES:
            raise _too_long(str(path), MAX_CORPUS_BYTES, mapped.size_bytes, "a smaller corpus")
        data = mapped.bytes(0, mapped.size_bytes, "the corpus")
    try:
        lines = data.decode("utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise MetadataError(
            "the corpus is not UTF-8",
            where=f"{path}, byte {error.start}",
            expected="UTF-8",
            found=f"byte 0x{data[error.start]:02x}: {error.reason}",
            hint="convert it: `iconv -t utf-8`",
        ) from None
    return tuple(_cases_of(_texts_of(path, lines)))


def _texts_of(path: Path, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    first, held, size = 1, [""], 0
    for number, line in enumerate(lines, 1):
        line_bytes = len(line.encode())
        if line_bytes > MAX_TEXT_BYTES:
            where = f"{path}, line {number}"
            raise _too_long(where, MAX_TEXT_BYTES, line_bytes, "break the line")
        if number - first == _LINES_A_TEXT or size + line_bytes > MAX_TEXT_BYTES:
            yield f"lines {first}..{number - 1}", "".join(held)
            first, held, size = number, [""], 0
        held.append(line)
        size += line_bytes
    yield f"lines {first}..{len(lines)}", "".join(held)


def _nothing(path: Path) -> NothingMeasuredError:
    return NothingMeasuredError(
        "the corpus holds no text",
        where=str(path),
        expected="at least 1 line",
        found="0 bytes",
        hint="leave --corpus out for the texts that come with this program",
    )


def _too_long(where: str, limit: int, found: int, hint: str) -> LimitError:
    return LimitError(
        "the corpus is too long",
        where=where,
        expected=f"at most {limit} bytes",
        found=f"{found} bytes",
        hint=hint,
    )
