"""How many threads a CPU kernel may use."""

from __future__ import annotations

import torch
from torch.utils.data import get_worker_info


def num_threads() -> int:
    """torch's number; one inside a DataLoader's worker process."""
    return 1 if get_worker_info() is not None else torch.get_num_threads()
