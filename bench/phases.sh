#!/usr/bin/env bash
# Where the milliseconds of one container go: a private gantryd is run under strace, and the system calls that begin and end each step are the
# trace points, in the daemon, the shim and the executor alike. Tracing costs about 0.1 ms for each call that is traced, so steps of many
# mounts look longer than they are; compare runs with each other, and totals with `gantry-bench tasks`.
# usage: GANTRY_BIN=target/gantry-release bench/phases.sh [containers]
set -euo pipefail

bin=$(cd "${GANTRY_BIN:-target/gantry-release}" && pwd)
rounds=${1:-10}
archive=$(ls "$(dirname "$0")"/../target/gantry-fixtures/busybox-*.tar | head -n 1)
folder=$(mktemp -d /tmp/gt-phases-XXXXXX)
points=execve,execveat,clone3,clone,vfork,exit_group,mkdir,mount,move_mount,pivot_root,umount2,unshare,connect,sendto,rmdir

PATH=$bin:$PATH strace -f -ttt -s 200 --seccomp-bpf -e "trace=$points" -o "$folder/trace" \
  "$bin/gantryd" --address "$folder/s.sock" --root "$folder/root" --state "$folder/state" --log-level warn >"$folder/log" 2>&1 &
tracer=$!
ctr=(ctr --address "$folder/s.sock")
finish() {
  pkill -TERM -P "$tracer" gantryd || true
  wait "$tracer" || true
  # Layers stay mounted when a daemon ends.
  awk -v folder="$folder/" 'index($5, folder) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l
  rm -rf "$folder"
}
trap finish EXIT
for _ in $(seq 200); do "${ctr[@]}" version >/dev/null 2>&1 && break || sleep 0.05; done
"${ctr[@]}" images import "$archive" >/dev/null
image=$("${ctr[@]}" images ls -q)
for round in $(seq "$rounds"); do "${ctr[@]}" run --rm "$image" "phase-$round" true; done

awk '
  function point(name) { if (!(name in at)) at[name] = $2 }
  function flush_life(  i) {
    for (i = 2; i <= steps; i++) if ((name[i] in at) && (name[i - 1] in at)) {
      took = (at[name[i]] - at[name[i - 1]]) * 1000
      sum[i] += took; n[i]++
      if (!(i in least) || took < least[i]) least[i] = took
    }
    split("", at)
  }
  BEGIN {
    steps = split("bundle shim-exec create-sent executor-exec executor-sealed in-cgroup isolated root-pivoted executor-done " \
      "create-answered start-exec program-exec program-done delete-exec cgroups-gone delete-done unmounted shim-done files-gone", name, " ")
  }
  /mkdir\("[^"]*io.containerd.runtime.v2.task\/default\/phase-/ && /state/ { if ("bundle" in at) flush_life(); point("bundle") }
  /execve\("[^"]*gantry-shim", \["[^"]*gantry-shim", "-namespace/ { point("shim-exec") }
  /Task\\22\\6Create/ { point("create-sent") }
  /"runtime".*"create"/ && /execve\(/ { point("executor-exec") }
  /execveat\(/ { point("executor-sealed") }
  /unshare\(CLONE_NEWPID/ { point("in-cgroup") }
  /unshare\(CLONE_NEWNS/ { point("isolated") }
  /pivot_root/ { point("root-pivoted") }
  /exit_group/ && ("root-pivoted" in at) { point("executor-done") }
  /tasks\/create/ { point("create-answered") }
  /"runtime".*"start"/ && /execve\(/ { point("start-exec") }
  /execve\("\/bin\/true"/ { point("program-exec") }
  /exit_group/ && ("program-exec" in at) { point("program-done") }
  /"runtime".*"delete"/ && /execve\(/ { point("delete-exec") }
  /rmdir\("\/sys\/fs\/cgroup/ { at["cgroups-gone"] = $2 }
  /exit_group/ && ("cgroups-gone" in at) { point("delete-done") }
  /umount2\("[^"]*rootfs/ && ("delete-done" in at) { point("unmounted") }
  /Task\\22\\10Shutdown/ { point("shim-done") }
  /rmdir\("[^"]*root\/io.containerd.runtime.v2.task\/default\/phase-/ { point("files-gone") }
  END {
    flush_life()
    printf "%-18s    %-18s %9s %9s\n", "from", "to", "mean ms", "least ms"
    for (i = 2; i <= steps; i++) if (n[i]) printf "%-18s -> %-18s %9.2f %9.2f\n", name[i - 1], name[i], sum[i] / n[i], least[i]
  }' "$folder/trace"
