#!/bin/sh
# The first program of the guest: from the initramfs to a root that pivot_root can leave, then the checks.
export PATH=/bin
mount -t tmpfs -o size=640m,mode=755 root /new
for folder in bin lib lib64 etc images checks.sh; do
  cp -a "/$folder" /new/
done
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/root /new/var/lib
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t tmpfs run /new/run
mount -t tmpfs tmp /new/tmp
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /new/dev/pts
insmod /lib/modules/overlay.ko
exec switch_root -c /dev/ttyS0 /new /bin/sh -c 'ip link set lo up; sh /checks.sh; echo "GUEST END"; sync; poweroff -f'
