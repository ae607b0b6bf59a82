"""Whether a host can start here: the quick look that ``run`` and ``demo`` take. No program is started for it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from zeitwork.setup import guest
from zeitwork.setup.facts import names
from zeitwork.setup.needs import NEEDS
from zeitwork.setup.options import GROUP, SetupOptions
from zeitwork.setup.tools import SEARCH
from zeitwork.store.system_user import POSTGRES_USER


@dataclass(frozen=True, slots=True)
class Missing:
    """Something without which a host can't start or can't run VMs, and the command that brings it."""

    name: str
    detail: str
    fix: str = "zeitwork setup"


def ensure_ready(options: SetupOptions, *, hello: bool = False) -> list[Missing]:
    """Return what is missing here, best read before anything starts; empty when all is there.

    ``hello`` asks for the bundled app too (the demo needs it). Firecracker is never missed: QEMU does without KVM.
    Takes milliseconds: it looks at files only, never at their sums or versions.
    """
    path = f"{os.environ.get('PATH', '')}:{SEARCH}"
    layout = options.layout
    missing = []
    for need in NEEDS:
        if shutil.which(need.command, path=path) is None:
            missing.append(Missing(need.command, f"{need.command} ({need.package}) {need.why}"))
    if GROUP not in names(layout.group):
        missing.append(Missing("group", f"the group {GROUP}, whose members may use the control socket"))
    if options.embedded and POSTGRES_USER not in names(layout.passwd):
        missing.append(Missing("user", f"the system user {POSTGRES_USER}, which the embedded Postgres runs as"))
    if options.kernel is None and guest.kernel_release(options) is None:
        missing.append(Missing("kernel", f"a guest kernel in {options.paths.guest}"))
    elif options.kernel is not None and not options.kernel.is_file():
        missing.append(Missing("kernel", f"the guest kernel {options.kernel}", "give --kernel a file that exists"))
    if options.initrd is not None and not options.initrd.is_file():
        missing.append(Missing("initrd", f"the initramfs {options.initrd}", "give --initrd a file that exists"))
    if hello and not options.hello.is_file():
        missing.append(Missing("hello", f"the hello app's image {options.hello}"))
    if not layout.tun.exists():
        missing.append(Missing("tun", f"{layout.tun}, through which VMs get their network"))
    if not layout.sysctl_file.exists():
        missing.append(Missing("forwarding", f"{layout.sysctl_file}, which keeps packet forwarding on"))
    return missing
