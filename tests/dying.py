"""What workers run in the tests of executors; they import it by name."""

import os
import signal
from multiprocessing import parent_process
from pathlib import Path

import torch


def right_answers(output, targets):
    """Count right answers, and kill this worker if the file that AIQ_TEST_DIES names exists.

    The file is removed first, so that one process dies. The process of the tests never does.
    """
    if parent_process() is None:
        return (output.argmax(1) == targets).double()
    try:
        Path(os.environ["AIQ_TEST_DIES"]).unlink()
    except OSError:
        return (output.argmax(1) == targets).double()
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def threads(output, targets):
    """Score every sample with the number of threads."""
    return torch.full((len(targets),), float(torch.get_num_threads()))
