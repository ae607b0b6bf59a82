#!/bin/sh
# Builds the guest's init: build.sh [OUTPUT]. Needs gcc and musl-tools (Debian 12); the same sources and tools give the same bytes.
set -eu
cd "$(dirname "$0")"
output=${1:-init.x86_64}
LC_ALL=C SOURCE_DATE_EPOCH=0 musl-gcc -std=gnu11 -D_GNU_SOURCE -Os -static -fno-pie -no-pie -s \
    -Wall -Wextra -Werror -fstack-protector-strong -fno-ident -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections \
    -ffile-prefix-map="$(pwd)"=. -Wl,--build-id=none -Wl,--gc-sections -Wl,-z,noexecstack \
    -o "$output" agent.c basics.c channel.c command.c config.c console.c devices.c freeze.c identity.c init.c mounts.c network.c \
    opening.c processes.c refresh.c session.c statistics.c user.c
strip --strip-all --remove-section=.comment "$output"
