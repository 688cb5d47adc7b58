"""Every failure a user can cause, as one tree.

    CotejarError
    |-- UsageError             APR-U...  what was asked for cannot be done
    |-- FileError              APR-F0..  the file itself: missing, a folder, a full disk
    |   `-- FormatError        APR-F...  the bytes break the format's rules
    |-- ModelError             APR-M...  a whole file, but not a model we can run
    |-- TokenizerError         APR-T...  text cannot become ids, or ids text
    |-- TraceError             APR-R...  a trace file that does not say what it must
    `-- ContractError          PV-E...   a contract that cannot be read at all

An error has a code that never changes its meaning and is never reused, what is wrong,
where, what was expected, what was found, and a next step. The parts stay fields, so that
`--json` and reports need not parse text. `docs/errors.md` lists every code.

Parts come out of strangers' files and names. In the message, which goes to terminals, each
is one line, and whatever does not print is shown as an escape; the fields hold it as it is.
"""

from __future__ import annotations

from typing import ClassVar

from cotejar.verdict import EXIT_BAD_INPUT, Verdict


def visible(text: str) -> str:
    r"""The text with everything that does not print shown as an escape: `\x1b`, `\n`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class CotejarError(Exception):
    """Base of all. Both commands turn it into one message and `exit_code`."""

    code: ClassVar[str]
    exit_code: ClassVar[int] = EXIT_BAD_INPUT

    def __init__(
        self, problem: str, *, where: str, expected: str, found: str, hint: str
    ) -> None:
        self.problem = problem
        self.parts = {"where": where, "expected": expected, "found": found, "try": hint}
        lines = [f"  {name:<9} {visible(text)}" for name, text in self.parts.items()]
        super().__init__("\n".join([f"error[{self.code}]: {visible(problem)}", *lines]))

    def as_json(self) -> dict[str, str]:
        """The same facts as the message, for `--json`."""
        return {"code": self.code, "problem": self.problem, **self.parts}


# --- what was asked for -------------------------------------------------------------


class UsageError(CotejarError):
    """What was asked for cannot be done."""

    code = "APR-U001"


class EmptyPromptError(UsageError):
    """A prompt, or a list of token ids, that holds nothing."""

    code = "APR-U002"


class TokenIdError(UsageError):
    """A token id that the model's vocabulary does not have."""

    code = "APR-U003"


class ContextLengthError(UsageError):
    """More tokens than the model's context holds."""

    code = "APR-U004"


class UnknownEngineError(UsageError):
    """An engine, numerics or device that nobody offers."""

    code = "APR-U005"


class MissingExtraError(UsageError):
    """A package that only an extra installs is needed and not there."""

    code = "APR-U006"


class UnknownSiteError(UsageError):
    """A site or slot that the design does not name."""

    code = "APR-U007"


class UnknownDemoModelError(UsageError):
    """`demo:NAME` with a name that no demo package carries."""

    code = "APR-U008"


class NothingMeasuredError(UsageError):
    """What was asked for leaves nothing to measure: no answer, and so no pass."""

    code = "APR-U009"
    exit_code = Verdict.INCOMPARABLE.exit_code


# --- the file itself ----------------------------------------------------------------


class FileError(CotejarError):
    """A file that cannot be opened, read or written."""

    code = "APR-F001"


class MissingFileError(FileError):
    """There is no such file."""

    code = "APR-F002"


class NotAFileError(FileError):
    """The path is a folder, a socket, or another thing that is no regular file."""

    code = "APR-F003"


class UnreadableFileError(FileError):
    """The system refuses to read the file."""

    code = "APR-F004"


class WriteError(FileError):
    """The file could not be written whole; nothing was left behind."""

    code = "APR-F005"


class OutputExistsError(FileError):
    """The output is there already."""

    code = "APR-F006"


class ReadBackError(FileError):
    """A file that was written does not hold what it should."""

    code = "APR-F007"


# --- the bytes ----------------------------------------------------------------------


class FormatError(FileError):
    """Bytes that break the rules of the format."""

    code = "APR-F010"


class WrongMagicError(FormatError):
    """The first bytes are of no format that we read."""

    code = "APR-F011"


class FormatVersionError(FormatError):
    """A version of the format that we do not read."""

    code = "APR-F012"


class BigEndianError(FormatError):
    """A big-endian file."""

    code = "APR-F013"


class TruncatedError(FormatError):
    """Something named in the file runs past its end."""

    code = "APR-F014"


class LimitError(FormatError):
    """A count or length beyond what a real file has."""

    code = "APR-F015"


class MetadataError(FormatError):
    """Metadata that cannot be decoded: bad JSON, bad UTF-8, an unknown value type."""

    code = "APR-F016"


class UnknownDtypeError(FormatError):
    """A tensor type that nobody has defined, or that we cannot decode."""

    code = "APR-F017"


class TensorShapeError(FormatError):
    """A shape that is empty, overflows, or does not fit the type's blocks."""

    code = "APR-F018"


class TensorRangeError(FormatError):
    """A tensor that lies outside the file's data."""

    code = "APR-F019"


class TensorOverlapError(FormatError):
    """Two tensors that share bytes."""

    code = "APR-F020"


class TensorNameError(FormatError):
    """A tensor name that is empty, too long, no UTF-8, or there twice."""

    code = "APR-F021"


class AlignmentError(FormatError):
    """An offset or alignment that the format does not allow."""

    code = "APR-F022"


class HeaderChecksumError(FormatError):
    """The checksum of the header is wrong."""

    code = "APR-F023"


class FooterChecksumError(FormatError):
    """The checksum of the whole file is wrong."""

    code = "APR-F024"


class ColumnMajorError(FormatError):
    """Weights stored column by column, which no engine here reads."""

    code = "APR-F025"


class LegacyLayoutError(FormatError):
    """An older layout of the format under a similar magic."""

    code = "APR-F026"


class IndexOrderError(FormatError):
    """A tensor index that is not in ascending byte order of names."""

    code = "APR-F027"


class UnsupportedFeatureError(FormatError):
    """Compression, encryption or another option of the format that we do not read."""

    code = "APR-F028"


class SplitFileError(FormatError):
    """A part of a split model is missing, or the parts do not belong together."""

    code = "APR-F029"


class NoUpstreamCodeError(FormatError):
    """`--strict`: a block type for which upstream's `.apr` has no code."""

    code = "APR-F030"


class PaddingError(FormatError):
    """Bytes that must be zero are not."""

    code = "APR-F031"


class TrailingDataError(FormatError):
    """Bytes after the last tensor that belong to nothing in the file."""

    code = "APR-F032"


class EncodingError(FormatError):
    """A block type that we do not write, or values that it cannot hold."""

    code = "APR-F033"


# --- the model ----------------------------------------------------------------------


class ModelError(CotejarError):
    """A whole file that is not a model we can run."""

    code = "APR-M001"


class ArchitectureError(ModelError):
    """An architecture that we do not know."""

    code = "APR-M002"


class MissingConfigError(ModelError):
    """A configuration key that the forward pass needs is not there."""

    code = "APR-M003"


class ConfigValueError(ModelError):
    """A configuration value that cannot be: zero heads, a width that heads do not divide."""

    code = "APR-M004"


class MissingTensorError(ModelError):
    """A tensor that the architecture needs is not in the file."""

    code = "APR-M005"


class LeftoverTensorError(ModelError):
    """A tensor in the file that the architecture has no use for."""

    code = "APR-M006"


class WeightShapeError(ModelError):
    """A tensor whose shape is not the one that the configuration asks for."""

    code = "APR-M007"


class WeightValueError(ModelError):
    """Weights that no training gives: NaN, infinite, or all the same."""

    code = "APR-M008"


# --- the tokenizer ------------------------------------------------------------------


class TokenizerError(CotejarError):
    """Text cannot become ids, or ids text."""

    code = "APR-T001"


class NoTokenizerError(TokenizerError):
    """The model carries no tokenizer: it can be traced from ids only."""

    code = "APR-T002"


class UnsupportedTokenizerError(TokenizerError):
    """A tokenizer model or pre-tokenizer that we do not know."""

    code = "APR-T003"


class ChatTemplateError(TokenizerError):
    """A chat template that is missing, broken, or reaches outside its sandbox."""

    code = "APR-T004"


class TokenizerDataError(TokenizerError):
    """The tokenizer's own tables are malformed, or contradict each other."""

    code = "APR-T005"


# --- traces -------------------------------------------------------------------------


class TraceError(CotejarError):
    """A trace file that does not say what it must, or contradicts itself."""

    code = "APR-R001"


class TraceSchemaError(TraceError):
    """A trace of a schema version that we do not read."""

    code = "APR-R002"


# --- contracts ----------------------------------------------------------------------


class ContractError(CotejarError):
    """A contract that cannot be read at all."""

    code = "PV-E001"


class ContractSyntaxError(ContractError):
    """The file is no YAML, or no UTF-8."""

    code = "PV-E002"


class ContractDocumentsError(ContractError):
    """The file holds no YAML document, or more than one."""

    code = "PV-E003"


class ContractLimitError(ContractError):
    """A file too large, nested too deep, or with aliases that expand too far."""

    code = "PV-E004"


class ContractSchemaError(ContractError):
    """YAML, but not of the schema: a missing key, a wrong type, an unknown word."""

    code = "PV-E005"


class NoContractsError(ContractError):
    """A folder that holds no contract: nothing was measured, so nothing passes."""

    code = "PV-E006"
    exit_code = Verdict.INCOMPARABLE.exit_code


class UnknownRuleError(ContractError):
    """A rule id, a gate or a severity that nothing has."""

    code = "PV-E007"


class SettingsError(ContractError):
    """The project's settings for runs are no TOML, or one of them means nothing."""

    code = "PV-E008"


class UnknownTestError(ContractError):
    """A test or harness id that no contract has."""

    code = "PV-E009"


class EvidenceError(ContractError):
    """A file of evidence that does not say what it must."""

    code = "PV-E010"
