"""Becomes the program in its arguments, and makes it end with the launcher: run as a script.

usage: python child.py LAUNCHER_PID PROGRAM [ARGUMENT ...]

A program in a session of its own survives the launcher, so the kernel is asked for a SIGTERM at the
launcher's death, whatever killed it. The request outlives exec but belongs to the *thread* that
started this process: the launcher starts its children from its main thread only. It is made here
rather than in a preexec_fn, which is not safe once the launcher has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

launcher_pid, program = int(sys.argv[1]), sys.argv[2:]
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
if os.getppid() != launcher_pid:  # it died before the request was made
    sys.exit(1)
# Python ignores SIGPIPE, and that too outlives exec: a dead launcher reads no log, and a line
# written to it must not kill the program in the middle of its shutdown.
try:
    os.execvp(program[0], program)
except OSError as error:
    sys.exit(f"{program[0]}: {error.strerror}")
