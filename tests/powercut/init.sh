#!/bin/sh
# The first program of the guest: a daemon on a disk, and a load on it or a check of it. The kernel's command line says which.
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
value() { sed -n "s/.*cut\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
for module in $(cat /lib/modules/order); do
  insmod "/lib/modules/$module.ko" || echo "no module $module"
done
ip link set lo up
mkdir -p /disk
mount -t ext4 /dev/vda /disk || { echo "VERDICT bad: the disk cannot be mounted"; poweroff -f; }
case "$(value daemon)" in
  gantryd) gantryd --root /disk/root --state /run/state --address /run/s.sock >/tmp/log 2>&1 & ;;
  containerd) containerd --root /disk/root --state /run/state --address /run/s.sock --log-level warn >/tmp/log 2>&1 & ;;
esac
left=300
until [ -S /run/s.sock ]; do
  left=$((left - 1))
  if [ "$left" = 0 ]; then
    tail -n 20 /tmp/log
    echo "VERDICT bad: the daemon does not serve"
    poweroff -f
  fi
  usleep 200000
done
if [ "$(value sync)" = 1 ]; then
  while sleep 1; do sync; done &
fi
case "$(value mode)" in
  work) gantry-load work /run/s.sock "$(value seed)" ;;
  check) gantry-load check /run/s.sock /acknowledged ;;
esac
tail -n 20 /tmp/log
echo "GUEST END"
poweroff -f
