#!/bin/sh
# The first process of a guest: mounts, modules, then the job; its status goes out through a serial port.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root TERM=dumb
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
for module in /mod/*; do
    insmod "$module" || echo "insmod $module failed"
done
ip link set lo up
hostname guest
cd /root || exit 1
setsid sh /job.sh </dev/null >/dev/ttyS1 2>&1
echo $? >/dev/ttyS2
sync
# QEMU ends with the reboot; no shutdown needed.
reboot -f
