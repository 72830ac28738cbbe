"""The compiler of the kernels: numba, kept between jobs, without the extensions of other packages.

At its first kernel numba asks every installed package for extensions. One that gigatoken brings (awkward) answers with
0.2 s in each job, for types that no kernel here knows.
"""

from __future__ import annotations

import numba
from numba.core import entrypoints

entrypoints._already_initialized = True  # there is no setting for it; without the name, the question is asked as ever
njit = numba.njit

__all__ = ["njit"]
