"""The systemd service: restarts the host process, and never touches its VMs."""

from __future__ import annotations

import sys
from pathlib import Path

from zeitwork.config import DEFAULT_DATA_DIR
from zeitwork.setup.options import SetupOptions

_UNIT = """\
# Written by zeitwork setup --systemd; zeitwork setup --remove takes it away. Change it with: systemctl edit zeitwork
[Unit]
Description=Zeitwork host: apps in microVMs
Documentation=https://github.com/zeitwork/zeitwork
After=network-online.target nss-user-lookup.target time-sync.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# VMs are in control groups of their own and must outlive this process: it adopts them when it is back.
KillMode=process
# Should the machine run out of memory and an app's VM be killed for it, the host process goes on.
OOMPolicy=continue
OOMScoreAdjust=-500
Restart=on-failure
RestartSec=2
# 2 is a wrong configuration: trying again changes nothing.
RestartPreventExitStatus=2
# The sockets of VMs are in {run}. It is made by the process itself and is no RuntimeDirectory=, which
# systemd would remove when the service stops.
TimeoutStartSec=120
TimeoutStopSec=60
LimitNOFILE=1048576
TasksMax=infinity
UMask=0022
Environment=PYTHONUNBUFFERED=1

[Install]
WantedBy=multi-user.target
"""


def command_line(options: SetupOptions) -> str:
    """Return how the service starts the host: this virtualenv's own ``zeitwork``, by its absolute path."""
    program = Path(sys.executable).parent / "zeitwork"
    words = [str(program), "run"] if program.exists() else [sys.executable, "-I", "-m", "zeitwork", "run"]
    if options.paths.data != DEFAULT_DATA_DIR:
        words += ["--data-dir", str(options.paths.data)]
    return " ".join(_quoted(word) for word in words)


def unit_text(options: SetupOptions) -> str:
    """Return the unit file."""
    return _UNIT.format(command=command_line(options), run=str(options.paths.run).replace("%", "%%"))


def _quoted(word: str) -> str:
    """Return a word as systemd reads it back: ``%`` and ``$`` mean something to it, and so do spaces and quotes."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{escaped}"' if escaped != word or " " in word else word
