#!/usr/bin/env bash
# The main job, end to end, with a private daemon: own root, own state, own socket, own registry; all of it is gone afterwards.
# Needs no network beyond Debian's packages: the image is made here from Debian's static busybox.
set -euo pipefail

bin=${GANTRY_BIN:?the folder with gantryd, gantry and gantry-shim}
[ "$(id -u)" = 0 ] || { echo "demo: containers need root: run it as root" >&2; exit 1; }
work=$(mktemp -d /tmp/gantry-demo-XXXXXX)
daemon= registry=
export PATH="$bin:$PATH" GANTRY_ADDRESS="$work/gantry.sock"

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

finish() {
  code=$?
  set +e
  if [ -n "$daemon" ]; then
    gantry rm -f demo >/dev/null 2>&1
    kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
  fi
  [ -n "$registry" ] && kill "$registry" 2>/dev/null && wait "$registry" 2>/dev/null
  if [ "$code" != 0 ]; then
    echo "demo: failed; the end of gantryd's log:" >&2
    tail -n 40 "$work/gantryd.log" >&2
  fi
  # Nothing of the demo may stay mounted when its folder goes.
  awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n1 umount -l
  rm -rf --one-file-system "$work"
  exit "$code"
}
trap finish EXIT

start() {
  gantryd --root "$work/root" --state "$work/state" --address "$GANTRY_ADDRESS" >>"$work/gantryd.log" 2>&1 &
  daemon=$!
  for _ in $(seq 1 200); do
    gantry version >/dev/null 2>&1 && return
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.05
  done
  echo "demo: gantryd does not serve" >&2
  exit 1
}

say "An image, made here from Debian's busybox, in a registry of our own"
mkdir -p "$work/image/bin" "$work/image/etc" "$work/image/proc" "$work/image/sys" "$work/image/dev" "$work/image/tmp"
cp "$(command -v busybox)" "$work/image/bin/busybox"
for applet in $("$work/image/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$work/image/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$work/image/etc/passwd"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/registry.yml" <<CONFIG
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $work/registry } }
http: { addr: "127.0.0.1:$port" }
CONFIG
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
image=127.0.0.1:$port/demo/busybox:latest
umoci init --layout "$work/oci" >/dev/null
umoci new --image "$work/oci:latest" >/dev/null
umoci insert --image "$work/oci:latest" "$work/image" / >/dev/null 2>&1
umoci config --image "$work/oci:latest" --config.cmd sh --config.env PATH=/bin >/dev/null
for _ in $(seq 1 100); do
  skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$work/oci:latest" "docker://$image" 2>/dev/null && break
  sleep 0.05
done

say "A daemon of our own"
start
show gantry version

say "Pull"
show gantry pull "$image"
show gantry images ls

say "Run"
show gantry run --rm "$image" echo hello from gantry

say "A container in the background, with a log"
show gantry run -d --name demo --log-uri "file://$work/demo.log" "$image" sh -c 'n=0; while true; do n=$((n+1)); echo "tick $n"; sleep 0.2; done'
sleep 0.5
show gantry ps
show gantry exec demo ps

say "The daemon is killed, as a power cut would; the container lives on"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
sleep 0.5
start
show gantry ps
show gantry exec demo echo still here

say "Stop and clean up"
show gantry stop -t 1 demo
echo "last words of its log: $(gantry logs demo | tail -n 1)"
show gantry rm demo
show gantry images rm "$image"
show gantry ps -a
say "That was all of it. Everything the demo made is gone."
