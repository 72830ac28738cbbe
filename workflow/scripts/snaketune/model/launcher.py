"""torchrun, for a job that waits for it: where the system can (Linux), it is told to stop when that job is killed.

python -m snaketune.model.launcher --standalone --nproc-per-node=2 --module snaketune.model.process work.json
"""

from __future__ import annotations

import ctypes
import signal
import sys

from torch.distributed.run import main

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    main()
