"""Conversion between formats, byte for byte: GGUF or safetensors -> `.apr` -> GGUF.

`import_model` and `export_model` do the work; the other modules know one thing each: what
a source says of its architecture and tokenizer (`from_gguf`, `from_hugging_face`,
`hugging_face_tokenizer`), how typed GGUF keys travel through JSON (`typed_keys`), how a
GGUF is described when none was there before (`to_gguf`), how rows are ordered for RoPE
(`rope_rows`), and how a weight is re-encoded (`reencode`).
"""

from cotejar.formats.convert.export_model import export_model
from cotejar.formats.convert.import_model import import_model
from cotejar.formats.convert.report import ConversionReport

__all__ = ["ConversionReport", "export_model", "import_model"]
