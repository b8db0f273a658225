"""A second signal ends the process at once, whatever it waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from support import slow

HANGS = {
    "a thread that never ends": """
import os, threading
with second_signal_ends(), StopSignals():
    thread = threading.Thread(target=os.read, args=(os.pipe()[0], 1))
    thread.start()
    print("ready", flush=True)
    thread.join()
""",
    "an engine in the main thread": """
import ctypes
with second_signal_ends():
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock)
    print("ready", flush=True)
    library.pthread_mutex_lock(lock)  # which never returns, and gives Python's lock back meanwhile
""",
    "native code that calls back": """
import time
with deferred_signals():
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the lock of the C library is laid out otherwise")
@pytest.mark.parametrize("what", HANGS)
@pytest.mark.parametrize("number", [signal.SIGINT, slow(signal.SIGTERM)])
def test_second_signal_ends__whatever_hangs(what: str, number: signal.Signals) -> None:
    if number == signal.SIGTERM and "main thread" in what:
        pytest.skip("the first one ends it, as it has no handler")
    code = "from m2l_runtime._utils.signals import *\nimport signal\n"
    code += "signal.signal(signal.SIGINT, lambda *_: None)\n" + HANGS[what]
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None, "the first signal lets it finish"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert err.endswith("m2l: stopped at once\n")
    assert "Traceback" not in err


def test_second_signal_ends__one_signal_is_as_ever() -> None:
    code = (
        "import os, signal\nfrom m2l_runtime._utils.signals import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "before = signal.set_wakeup_fd(-1)\n"
        "try:\n    with second_signal_ends():\n        os.kill(os.getpid(), signal.SIGINT)\n        signal.pause()\n"
        "except KeyboardInterrupt:\n    print('interrupted', signal.set_wakeup_fd(-1) == before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted True\n"


def test_second_signal_ends__a_fork_tells_nobody() -> None:
    code = (
        "import os, signal, time\nfrom m2l_runtime._utils.signals import *\n"
        "with second_signal_ends():\n"
        "    for _ in range(2):\n"
        "        child = os.fork()\n"
        "        if not child:\n"
        "            signal.signal(signal.SIGINT, lambda *_: os._exit(0))\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            signal.pause()\n"
        "        os.waitpid(child, 0)\n"
        "    time.sleep(0.2)\n"
        "    print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")
