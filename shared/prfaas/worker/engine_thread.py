"""The one thread that an engine computes on, beside the event loop of its process."""

import sys
from concurrent.futures import ThreadPoolExecutor

SWITCH_INTERVAL_S = 0.0005
"""Time after which the event loop gets the interpreter back from the engine; Python's 5 ms would delay every frame and token."""


def engine_thread() -> ThreadPoolExecutor:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return ThreadPoolExecutor(1, thread_name_prefix="engine")
