"""The file itself, and the bytes in it."""

from __future__ import annotations

from cotejar.errors.error import CotejarError


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
