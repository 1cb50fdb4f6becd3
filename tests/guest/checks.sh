# What gantry has to do on a machine with nothing but cgroup v2; runs in the guest, as its first program.
# One line for each check: `PASS name` or `FAIL name`, the reason before it.
export PATH=/bin HOME=/root GANTRY_ADDRESS=/run/g/s.sock CONTAINERD_ADDRESS=/run/g/s.sock
IMAGE=docker.io/library/gantry-busybox:latest
CGROUPS=/sys/fs/cgroup
LIMIT=60

# check NAME FUNCTION [ARGUMENT...]: FUNCTION runs with -x, its trace is shown when it fails.
check() {
  name=$1
  shift
  # Not inside of a condition: `set -e` would do nothing there.
  (set -ex; "$@") >/tmp/trace 2>&1
  code=$?
  if [ "$code" = 0 ]; then
    echo "PASS $name"
  else
    sed 's/^/  /' /tmp/trace
    echo "FAIL $name"
  fi
}

c() { timeout "$LIMIT" ctr "$@"; }

# soon COMMAND...: until it succeeds, for a bounded time.
soon() {
  left=100
  until "$@"; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    usleep 200000
  done
}

gone() { [ ! -e "$1" ]; }
has() { grep -q "$1" "$2"; }

# ends CODE COMMAND...: COMMAND ends with CODE.
ends() {
  expected=$1
  shift
  got=0
  "$@" || got=$?
  [ "$got" = "$expected" ]
}

start_daemon() {
  gantryd --root /var/lib/g --state /run/g/state --address "$GANTRY_ADDRESS" --log-level debug >>/tmp/gantryd.log 2>&1 &
  echo $! >/tmp/gantryd.pid
}

serve() { soon c version; }
run() { c run --runc-binary "$runtime" "$@"; }
run_default() { c run "$@"; }
pid_of() { c tasks ls | awk -v id="$1" '$1 == id { print $2 }'; }
state_of() { c tasks ls | awk -v id="$1" '$1 == id { print $3 }'; }
cgroup_of() {
  of=$(pid_of "$1")
  [ -n "$of" ]
  echo "$CGROUPS$(sed -n 's/^0:://p' "/proc/$of/cgroup")"
}
is() { [ "$(state_of "$1")" = "$2" ]; }

host() {
  [ "$(cat $CGROUPS/cgroup.controllers | tr ' ' '\n' | grep -cxE 'cpuset|cpu|io|memory|hugetlb|pids|rdma')" = 7 ]
  ! grep -q ' - cgroup ' /proc/self/mountinfo
}
import() { c images import /images/busybox.tar; }

exit_code() { ends 42 run --rm $IMAGE "code-$runtime" sh -c 'exit 42'; }

own_cgroup() {
  run -d --null-io --memory-limit 67108864 --cpu-quota 25000 --cpu-period 100000 $IMAGE "$live" \
    sh -c 'sleep 1000 & trap "exit 5" TERM; while true; do sleep 0.2; done'
  folder=$(cgroup_of "$live")
  [ "$folder" != "$CGROUPS/" ]
  case $folder in *"$live"*) ;; *) false ;; esac
}
limits_written() {
  folder=$(cgroup_of "$live")
  cat "$folder/cpu.max" "$folder/memory.max"
  [ "$(cat "$folder/cpu.max")" = "25000 100000" ]
  [ "$(cat "$folder/memory.max")" = 67108864 ]
}
metrics() {
  c tasks metrics "$live" >/tmp/metrics
  cat /tmp/metrics
  awk '$1 == "cpu.usage_usec" && $2 > 0 { found = 1 } END { exit !found }' /tmp/metrics
  awk '$1 == "memory.usage_limit" && $2 == 67108864 { found = 1 } END { exit !found }' /tmp/metrics
  awk '$1 == "pids.current" && $2 >= 2 { found = 1 } END { exit !found }' /tmp/metrics
}
pause() {
  folder=$(cgroup_of "$live")
  c tasks pause "$live"
  cat "$folder/cgroup.events"
  has '^frozen 1' "$folder/cgroup.events"
  is "$live" PAUSED
  c tasks resume "$live"
  has '^frozen 0' "$folder/cgroup.events"
  is "$live" RUNNING
}
exec_code() { ends 7 c tasks exec --exec-id e1 "$live" sh -c 'grep -q 0:: /proc/self/cgroup && exit 7'; }
runs_777() {
  for one in $(cat "$folder/cgroup.procs"); do
    if tr '\0' ' ' <"/proc/$one/cmdline" | grep -q '^sleep 777'; then return 0; fi
  done
  return 1
}
exec_in_cgroup() {
  folder=$(cgroup_of "$live")
  c tasks exec -d --exec-id e2 "$live" sleep 777
  soon runs_777
  c tasks kill -s SIGKILL --exec-id e2 "$live"
}
restart() {
  before=$(pid_of "$live")
  kill -9 "$(cat /tmp/gantryd.pid)"
  start_daemon
  serve
  [ "$(pid_of "$live")" = "$before" ]
  is "$live" RUNNING
  ends 9 c tasks exec --exec-id e3 "$live" sh -c 'exit 9'
}
kill_all() {
  folder=$(cgroup_of "$live")
  [ "$(wc -l <"$folder/cgroup.procs")" -ge 2 ]
  c tasks kill -a -s SIGKILL "$live"
  soon is "$live" STOPPED
  c tasks rm "$live" 2>&1 | grep 'exit code 137'
  c containers rm "$live"
  soon gone "$folder"
}
out_of_memory() {
  id=oom-$runtime
  timeout 60 ctr events >/tmp/events 2>&1 &
  listener=$!
  sleep 2
  ends 137 run --memory-limit 16777216 $IMAGE "$id" tail /dev/zero
  soon has "/tasks/exit.*$id" /tmp/events
  kill "$listener"
  cat /tmp/events
  c containers rm "$id"
  awk -v id="$id" 'index($0, id) && /\/tasks\/oom/ { oom = 1 } index($0, id) && /\/tasks\/exit/ { exit !oom }
    END { exit !oom }' /tmp/events
}
# Ours has the option, `ctr` has not.
pids_limit() {
  id=pids-$runtime
  timeout "$LIMIT" gantry run -d --name "$id" --executor "$runtime" --pids-limit 5 $IMAGE \
    sh -c 'sleep 1; for n in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait; sleep 1000'
  folder=$(cgroup_of "$id")
  [ "$(cat "$folder/pids.max")" = 5 ]
  soon has '^max [1-9]' "$folder/pids.events"
  [ "$(cat "$folder/pids.current")" -le 5 ]
  timeout "$LIMIT" gantry rm -f "$id"
  soon gone "$folder"
}
devices() {
  # The machine's serial line: nobody gave it to the container, whatever nodes it makes. Its own devices work.
  run --rm $IMAGE "dev-$runtime" sh -c 'echo x >/dev/null; head -c 1 /dev/zero >/dev/null || exit 2
    mknod /line c 4 64 || exit 4; if (: >/line) 2>/error; then exit 3; fi; grep "not permitted" /error'
  # One that was given works.
  run --rm --device /dev/kmsg $IMAGE "dev-given-$runtime" sh -c 'echo gantry >/dev/kmsg || exit 5'
  # With no executor named: the built-in one, which needs no other for this.
  run_default --rm $IMAGE "dev-default-$runtime" sh -c 'mknod /line c 4 64; ! (: >/line) 2>/error'
  ! grep -q 'runc is used' /tmp/gantryd.log
}
nothing_left() {
  soon nothing_now
}
# Each list has something that must be in it: a list that could not be made would look like a clean machine.
nothing_now() {
  find $CGROUPS -type d >/tmp/cgroups && sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .*/\1/p' /proc/self/mountinfo >/tmp/mounts &&
    cat /proc/[0-9]*/comm >/tmp/programs 2>/tmp/ended
  has "^$CGROUPS\$" /tmp/cgroups && has '^/run$' /tmp/mounts && has '^gantryd$' /tmp/programs || return 1
  # The namespace's folder is the parent of all its containers' and stays, as it does with other daemons.
  ! grep -vxE "$CGROUPS(/default)?" /tmp/cgroups && ! grep -E '^/(run/g|var/lib/g)' /tmp/mounts &&
    ! grep -E '^(gantry-shim|containerd-shim|runc|crun|sleep)' /tmp/programs
}

echo "GUEST START $(uname -r)"
mkdir -p /run/g /var/lib/g
start_daemon
check host host
check serve serve
check import import
for runtime in builtin runc crun; do
  live=live-$runtime
  check "$runtime exit-code" exit_code
  check "$runtime own-cgroup" own_cgroup
  check "$runtime limits-written" limits_written
  check "$runtime metrics" metrics
  check "$runtime pause" pause
  check "$runtime exec" exec_code
  check "$runtime exec-in-cgroup" exec_in_cgroup
  check "$runtime restart" restart
  check "$runtime kill-all" kill_all
  check "$runtime out-of-memory" out_of_memory
  check "$runtime pids-limit" pids_limit
  check "$runtime devices" devices
  check "$runtime nothing-left" nothing_left
done
echo "LOG"
grep -E 'WARN|ERROR|level=(warn|error)|panicked' /tmp/gantryd.log | tail -n 30
