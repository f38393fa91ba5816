"""`tokentape`, such that it ends with the benchmark that started it: `python -m bench.processes.launch serve`.

With BENCH_SAMPLES=path the sampler runs in it (see `sampler.py`). Nothing else differs from the command.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def main() -> None:
    """Runs the command line."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    path = os.environ.pop("BENCH_SAMPLES", None)
    from server.cli import main as tokentape

    sys.argv[0] = "tokentape"
    if path is None:
        tokentape()
    else:
        from bench.processes.sampler import sampled

        sampled(path, tokentape)


if __name__ == "__main__":
    main()
