"""The guest's side of a virtual machine: its init (C, prebuilt), initramfs, kernel, and the bundled hello app.

**Drives.** vda is the root image (squashfs), vdb the writable layer (ext4), vdc the config drive
(`actors.vm.config_drive`).

**Console.** The init reports on the serial console, each report a line of its own that starts with
``[zeitwork NONCE]``; NONCE is ``-`` until the config drive was read. What the app writes to standard output and error
goes there too, unchanged. In the order in which they come:

====================================  ================================================================================
``booted kernel=VERSION``             the init runs
``mounted``                           the app's root is in place
``network``                           addresses, routes, hostname and resolver are set
``started pid=N``                     the app's program runs (its exec succeeded)
``restored``                          the machine is another one than before (its nonce too), and goes on; ``started``
                                      follows
``stopping signal=N``                 asked to stop by the agent, the power button, Ctrl-Alt-Del, or from inside
``exited status=N``                   the app ended by itself
``exited signal=N [oom=1]``           a signal ended the app; 9 when it did not stop in its time. ``oom``: the guest's
                                      kernel has killed a process because the memory was used up
``error stage=S message="..."``       it could not be run; S is config, drives, mount, network, files, user, cwd or exec
``halting``                           both file systems are clean; the machine is reset next
====================================  ================================================================================

The message is a JSON string. A machine without drives, or with ``zeitwork.probe=1`` on its kernel command line, says
``probe ok`` and halts. ``zeitwork.halt=poweroff`` powers off instead of resetting.

**Agent.** The init answers its host on a channel of its own, as `actors.vm.agent.wire` specifies: vsock port 20, or
the virtio-serial port ``org.zeitwork.agent``. A machine with neither has no agent.
"""
