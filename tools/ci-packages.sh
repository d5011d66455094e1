#!/bin/sh
# What some tests need beside Python: strace (kills at every system call), systemd-container and debootstrap (a booted
# Debian for the units), e2fsprogs (disks that fill up or vanish), other file systems to put a data root on, logrotate and
# rsync (for what docs/operating.md says). Tests skip, with the reason, what is missing; so a machine without apt-get, root
# or network is no error.
set -u

missing=
for pair in strace:strace systemd-nspawn:systemd-container debootstrap:debootstrap mkfs.ext4:e2fsprogs \
    mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs mkfs.exfat:exfatprogs mount.exfat-fuse:exfat-fuse logrotate:logrotate \
    rsync:rsync; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed, and not to be installed here:$missing" >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of names
install() { timeout 300 apt-get -qq install -y --no-install-recommends $missing >/dev/null 2>&1; }
install || { timeout 120 apt-get -qq update >/dev/null 2>&1 && install; } || echo "could not install:$missing" >&2
exit 0
