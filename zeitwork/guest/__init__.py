"""The guest's side of a virtual machine: its init (C, prebuilt), initramfs, kernel, and the bundled hello app."""
