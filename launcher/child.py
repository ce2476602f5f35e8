"""Executes a program that is terminated when the launcher dies: run as a script.

usage: python child.py LAUNCHER_PID PROGRAM [ARGUMENT ...]

A program in its own session survives the launcher, so the kernel is asked to send SIGTERM when the
launcher dies for any reason. The setting survives exec but is bound to the *thread* that started
this process: the launcher starts its children from its main thread only. It is set here rather than
in a preexec_fn, which is unsafe once the launcher has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

launcher_pid, program = int(sys.argv[1]), sys.argv[2:]
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
if os.getppid() != launcher_pid:  # the launcher died before prctl
    sys.exit(1)
# Python ignores SIGPIPE, which also survives exec: after the death of the launcher, writing to its
# log pipe must not kill the program during its shutdown.
try:
    os.execvp(program[0], program)
except OSError as error:
    sys.exit(f"{program[0]}: {error.strerror}")
