"""Compiled kernels are kept between jobs. Numba looks at the file of a kernel alone to see whether it has changed, and
not at the files of the kernels that it calls; so all are forgotten where any file of this package has changed."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def forget_stale(folder: Path = Path(__file__).parent) -> bool:
    """Remove the compiled kernels of another state of the folder's code; whether there was another state."""
    digest = sha256(b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()
    stamp = folder / "__pycache__/kernels"
    try:
        if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            return False
        for compiled in folder.rglob("__pycache__/*.nb[ci]"):
            compiled.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest, encoding="ascii")
    except PermissionError:  # a clone that nobody can write to is not edited either
        return False
    return True
