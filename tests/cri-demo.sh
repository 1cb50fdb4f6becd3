#!/usr/bin/env bash
# Pods, end to end, with a private daemon in a network namespace of its own: two containers that share a network, a port of the node,
# exec, logs, and a daemon that is killed in between. All of it is gone afterwards.
set -euo pipefail

bin=${GANTRY_BIN:?the folder with gantryd, gantry and gantry-shim}
[ "$(id -u)" = 0 ] || { echo "cri-demo: containers need root: run it as root" >&2; exit 1; }
if [ -z "${GANTRY_CRI_DEMO_INSIDE:-}" ]; then
  # Bridges, addresses and firewall rules of the demo are nobody else's, and go with it.
  exec unshare --net env GANTRY_CRI_DEMO_INSIDE=1 "$0" "$@"
fi
ip link set lo up
work=$(mktemp -d /tmp/gantry-cri-XXXXXX)
daemon=
export PATH="$bin:$PATH" GANTRY_ADDRESS="$work/gantry.sock"

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

finish() {
  code=$?
  set +e
  if [ -n "$daemon" ]; then
    gantry pods ls -q 2>/dev/null | xargs -r gantry pods rm >/dev/null 2>&1
    kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
  fi
  if [ "$code" != 0 ]; then
    echo "cri-demo: failed; the end of gantryd's log:" >&2
    tail -n 40 "$work/gantryd.log" >&2
  fi
  # Nothing of the demo may stay mounted when its folder goes.
  awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n1 umount -l
  rm -rf --one-file-system "$work"
  exit "$code"
}
trap finish EXIT

start() {
  gantryd --config "$work/config.toml" --root "$work/root" --state "$work/state" --address "$GANTRY_ADDRESS" >>"$work/gantryd.log" 2>&1 &
  daemon=$!
  for _ in $(seq 1 200); do
    gantry version >/dev/null 2>&1 && return
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.05
  done
  echo "cri-demo: gantryd does not serve" >&2
  exit 1
}

say "A network for pods: a bridge, addresses, ports of the node"
mkdir -p "$work/cni"
cat >"$work/cni/10-pods.conflist" <<CONFIG
{ "cniVersion": "1.0.0", "name": "pods", "plugins": [
  { "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "$work/addresses", "ranges": [[{ "subnet": "10.99.0.0/16" }]],
              "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true } } ] }
CONFIG
cat >"$work/config.toml" <<CONFIG
version = 3
[plugins."io.containerd.cri.v1.runtime"]
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
conf_dir = "$work/cni"
[plugins."io.containerd.nri.v1.nri"]
disable = true
CONFIG
start
show gantry pods info

say "An image, made here from Debian's busybox"
mkdir -p "$work/image/bin" "$work/image/etc" "$work/image/proc" "$work/image/sys" "$work/image/dev" "$work/image/tmp" "$work/image/www"
cp "$(command -v busybox)" "$work/image/bin/busybox"
for applet in $("$work/image/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$work/image/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$work/image/etc/passwd"
echo 'a page from the pod' >"$work/image/www/index.html"
umoci init --layout "$work/oci" >/dev/null
umoci new --image "$work/oci:latest" >/dev/null
umoci insert --image "$work/oci:latest" "$work/image" / >/dev/null 2>&1
umoci config --image "$work/oci:latest" --config.cmd sh --config.env PATH=/bin >/dev/null
skopeo --insecure-policy copy --quiet "oci:$work/oci:latest" "docker-archive:$work/image.tar:demo.local/busybox:1"
ctr --address "$GANTRY_ADDRESS" -n k8s.io images import "$work/image.tar" >/dev/null

say "A pod of two containers: a server, and somebody who looks at it"
show gantry pods run web --publish 8080:80 --log-directory "$work/logs"
show gantry pods add web server demo.local/busybox:1 httpd -f -p 80 -h /www
show gantry pods add web watcher demo.local/busybox:1 sh -c 'while true; do wget -q -O - http://127.0.0.1/; sleep 0.2; done'
sleep 0.7
show gantry pods ls
show gantry pods ps

say "They share a network, and the node's port leads to it"
show gantry pods exec web/watcher wget -q -O - http://127.0.0.1/
gateway=10.99.0.1
show gantry pods exec web/server ip -4 -o addr show eth0
show python3 -c "import urllib.request; print(urllib.request.urlopen('http://$gateway:8080/', timeout=5).read().decode(), end='')"

say "Logs, and what the pod uses"
echo '$ gantry pods logs web/watcher | tail -n 2'
gantry pods logs web/watcher | tail -n 2
show gantry pods stats

say "The daemon is killed, as a power cut would; the pod lives on, with its address"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
start
show gantry pods ls
show gantry pods exec web/watcher wget -q -O - http://127.0.0.1/

say "Stop and clean up"
show gantry pods rm web
show gantry pods ls
links=$(ip -o link | grep -c veth || true)
[ "$links" = 0 ] || { echo "cri-demo: $links interfaces are left" >&2; exit 1; }
say "That was all of it. Everything the demo made is gone."
