# Sourced by the other scripts: where the cache is and what is in it.
export CURLING_CACHE="${CURLING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/curling}"
[ -x /usr/bin/qemu-system-x86_64 ] && export CURLING_QEMU_7_2="${CURLING_QEMU_7_2:-/usr/bin/qemu-system-x86_64}"
[ -x "$CURLING_CACHE/qemu-10.0/qemu-system-x86_64" ] && export CURLING_QEMU_10_0="${CURLING_QEMU_10_0:-$CURLING_CACHE/qemu-10.0/qemu-system-x86_64}"
[ -e "$CURLING_CACHE/linux/vmlinuz" ] && export CURLING_LINUX_KERNEL="${CURLING_LINUX_KERNEL:-$CURLING_CACHE/linux/vmlinuz}"
[ -e "$CURLING_CACHE/linux-guest.cpio.gz" ] && export CURLING_LINUX_INITRD="${CURLING_LINUX_INITRD:-$CURLING_CACHE/linux-guest.cpio.gz}"
[ -e "$CURLING_CACHE/linux-guest-disk.cpio.gz" ] && export CURLING_LINUX_DISK_INITRD="${CURLING_LINUX_DISK_INITRD:-$CURLING_CACHE/linux-guest-disk.cpio.gz}"
:
