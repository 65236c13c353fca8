"""Runs the command, writes down what it did to the machine, and lets it reach no network.

python -m tests.robustness.watched REPORT WORD ...

REPORT is JSON: the paths that Python code wrote, the addresses that it asked for, and the programs that it started.
"""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

seen: dict[str, set[str]] = {"written": set(), "addresses": set(), "programs": set()}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
NETWORK = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind", "socket.getaddrinfo"}
NETWORK |= {"socket.gethostbyname", "socket.gethostbyaddr"}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & WRITES:
        seen["written"].add(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in CHANGES:
        paths = [path for path in arguments if isinstance(path, str | bytes | os.PathLike)]
        relative = any(isinstance(number, int) and number >= 0 for number in arguments[-2:]) and event != "os.chmod"
        if not relative:  # to an open folder, whose own path is seen
            seen["written"].update(os.path.abspath(os.fsdecode(path)) for path in paths)
    elif event == "sqlite3.connect":
        seen["written"].add(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in STARTS:
        seen["programs"].add(f"{event} {arguments[:2]}")
    elif event in NETWORK and not isinstance(arguments[-1], str | bytes):  # text is a path: a socket of this machine
        seen["addresses"].add(f"{event} {arguments[-1] if event.endswith(('connect', 'bind')) else arguments[:2]}")
        raise OSError("no network")


def report(path: Path) -> None:
    sys.stdout.flush()
    path.write_text(json.dumps({name: sorted(found) for name, found in seen.items()}))


if __name__ == "__main__":
    atexit.register(report, Path(sys.argv[1]).absolute())
    sys.addaudithook(watch)
    sys.argv[:2] = ["gkgnet-hf"]
    from gkgnet_hf.cli import main

    main()
