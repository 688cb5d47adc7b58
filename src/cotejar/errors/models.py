"""A whole file, but no model or tokenizer that can be run."""

from __future__ import annotations

from cotejar.errors.error import CotejarError


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
