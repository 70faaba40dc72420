// SPDX-License-Identifier: MIT
#include "guest/scripts.hpp"

#include <sys/stat.h>

// The assembler reads the program that make has built (lib/guest/runner).
asm(".pushsection .rodata\n"
    ".globl pv_runner_begin, pv_runner_end\n"
    "pv_runner_begin: .incbin \"" PV_RUNNER
    "\"\n"
    "pv_runner_end: .popsection\n");
extern "C" const char pv_runner_begin[], pv_runner_end[];

namespace pv::guest {
namespace {

// Every process costs about 15 ms under TCG, so the way to the agent has as few as can be: one
// mount for all file systems, one modprobe for all modules.
constexpr std::string_view k_init = R"sh(#!/bin/sh
# The first process: busybox ash. Every applet is a link in /usr/bin, which /bin, /sbin and
# /usr/sbin lead to.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -a
exec </dev/console >/dev/console 2>&1
mkdir /dev/pts /dev/shm
mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts

modules=
while read -r m; do modules="$modules $m"; done </lib/modules/load-order
[ -z "$modules" ] || modprobe -a $modules
# A virtio SCSI controller (1004 at an old bus) means a CD drive.
for d in /sys/bus/pci/devices/*/device; do
	read -r t <"$d"
	case $t in 0x1048 | 0x1004) modprobe -a virtio_scsi sr_mod && break ;; esac
done

name=tiny
read -r cmdline </proc/cmdline
for w in $cmdline; do
	case $w in pv.name=*) name=${w#pv.name=} ;; esac
done
echo "$name" >/proc/sys/kernel/hostname

# busybox poweroff, halt and reboot tell the first process by a signal.
trap '/sbin/shutdown -P' USR2
trap '/sbin/shutdown -H' USR1
trap '/sbin/shutdown -r' TERM

# The ACPI power button is an input device; its first event (24 bytes) means "off". The name is
# that of /sys/class/input/eventN/device/name.
for n in /sys/class/input/event*/device/name; do
	[ -e "$n" ] || continue
	read -r t <"$n"
	[ "$t" = "Power Button" ] || continue
	e=${n#/sys/class/input/}
	e=${e%%/*}
	( dd if=/dev/input/$e of=/dev/null bs=24 count=1 2>/dev/null && exec /sbin/shutdown -P ) &
	break
done

# A port's folder is there before its name, which arrives by a message from the host.
find_port() {
	for p in /sys/class/virtio-ports/*; do
		[ -e "$p/name" ] || continue
		t=
		read -r t <"$p/name"
		[ "$t" = org.qemu.guest_agent.0 ] && port=/dev/${p##*/} && [ -c "$port" ] && return 0
	done
	return 1
}
n=0
until find_port; do
	n=$((n + 1))
	if [ $n -lt 2000 ]; then
		usleep 2000
	else
		[ $n = 2000 ] && echo "init: no port for the guest agent: this VM cannot be reached"
		sleep 1
	fi
done

# The boot was quiet; from here on every kernel message is to be seen.
echo 7 >/proc/sys/kernel/printk

# Waiting as the first process also reaps orphans. A trap ends the wait early: then wait again.
# /run/shutdown is made by /sbin/shutdown.
( ifconfig lo up ) &
pv-runner 30 </dev/null &
while :; do
	/usr/sbin/qemu-ga -m virtio-serial -p "$port" -t /run </dev/null &
	agent=$!
	while [ -d /proc/$agent ]; do
		wait $agent
		status=$?
	done
	while [ -e /run/shutdown ]; do sleep 1; done
	echo "init: qemu-ga ended ($status), starting it again"
	usleep 100000
done
)sh";

// qemu-ga runs: /sbin/shutdown -h -P|-H|-r +0 "…".
constexpr std::string_view k_shutdown = R"sh(#!/bin/sh
# Usage: shutdown [-P|-H|-r]. Other options and words are ignored.
how=poweroff
for a; do
	case $a in -P) how=poweroff ;; -H) how=halt ;; -r) how=reboot ;; esac
done
echo $how >/run/shutdown
trap '' TERM HUP INT

# Not the kernel's own file systems: /proc is still needed.
unmount() {
	umount -a -r -t noproc,sysfs,devtmpfs,devpts,tmpfs,rootfs 2>/dev/null
}
# A disk that is still mounted for writing has programs on it.
in_use() {
	while read -r dev dir type options rest; do
		case "$dev $options" in /dev/*\ rw*) return 0 ;; esac
	done </proc/mounts
	return 1
}
sync
unmount
if in_use; then
	kill -TERM -1
	usleep 300000
	kill -KILL -1
	usleep 50000
	sync
	unmount
fi
exec /bin/busybox $how -f
)sh";

constexpr std::string_view k_fstab =
    "proc /proc proc nosuid,nodev,noexec 0 0\n"
    "sysfs /sys sysfs nosuid,nodev,noexec 0 0\n"
    "devtmpfs /dev devtmpfs mode=0755 0 0\n"
    "tmpfs /tmp tmpfs mode=1777 0 0\n"
    "tmpfs /run tmpfs mode=0755 0 0\n";

// What mount(8) without a type tries besides what the kernel has loaded already.
constexpr std::string_view k_file_systems = "ext4\niso9660\n";

}  // namespace

const GuestText k_guest_texts[] = {
    {k_init_path, 0755, k_init},
    {"sbin/shutdown", 0755, k_shutdown},
    {"sbin/pv-runner",
     0755,
     {pv_runner_begin, static_cast<size_t>(pv_runner_end - pv_runner_begin)}},
    {"etc/fstab", 0644, k_fstab},
    {"etc/filesystems", 0644, k_file_systems},
    {"etc/passwd", 0644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"},
    {"etc/group", 0644, "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\n"},
    {"etc/hosts", 0644, "127.0.0.1 localhost\n"},
    {"", 0, ""},
};

}  // namespace pv::guest
