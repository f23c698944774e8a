"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

_FULL = "Free some space, or choose another disk."
_CLOSED = "Choose a folder that you may write to."
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EROFS: _CLOSED,
    errno.ENOENT: "Make the folder first.",
}


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write to a temporary file beside ``path``, flush it to the disk, rename; a link is written through, as by open().

    Raises:
        OSError: If the disk says no. The message says what became of the file that was there.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # in a folder that is closed there is nothing to take away
            temporary.unlink(missing_ok=True)
        kept = "The file that was there is untouched." if path.exists() else "Nothing was written."
        advice = _ADVICE.get(error.errno or 0, "")
        raise OSError(f"cannot save {path}: {error.strerror or error}. {kept} {advice}".rstrip()) from error
    except BaseException:  # an interrupt: leave no temporary file behind either
        temporary.unlink(missing_ok=True)
        raise
