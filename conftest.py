"""One thread a process, set before torch is imported: tests run side by side, and start processes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
