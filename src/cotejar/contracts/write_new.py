"""Write a file that was not there: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cotejar.errors import OutputExistsError, WriteError


def write_new_file(path: str, text: str) -> None:
    """Write `text` as UTF-8 under a temporary name beside `path`, then link it there.

    Raises:
        OutputExistsError: there is something at `path`; it is left as it is.
        WriteError: the system refuses, or the disk is full; nothing is left behind.
    """
    temporary = ""
    try:
        folder = Path(path).resolve().parent
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".partial", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).chmod(0o644)
        os.link(temporary, path)  # unlike a rename, never replaces
    except FileExistsError:
        raise OutputExistsError(
            "the output is there already",
            where=path,
            expected="a path where nothing is",
            found="a file or folder",
            hint="name another path, or remove it first",
        ) from None
    except OSError as error:
        raise WriteError(
            "the output could not be written",
            where=path,
            expected="a folder that this user may write to, with room in it",
            found=error.strerror or str(error),
            hint="name a path in another folder",
        ) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
