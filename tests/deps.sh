#!/usr/bin/env bash
# Installs the Debian packages that are missing, and the Rust target of the static shim.
# usage: deps.sh build | all
set -euo pipefail

build=(gcc libc6-dev make git)
# The peer and its client, the runtimes, a registry, other tools that read and write images, a static busybox for root
# filesystems, what the tests look at the machine with, and an emulator with what fills its filesystem.
tests=(containerd runc crun docker-registry skopeo umoci busybox-static apache2-utils containernetworking-plugins iptables iproute2 procps util-linux strace jq curl
  python3 tar gzip zstd attr erofs-utils qemu-system-x86 cpio e2fsprogs binutils findutils openssl)

wanted=("${build[@]}")
[ "${1:-all}" = build ] || wanted+=("${tests[@]}")

missing=()
for package in "${wanted[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "deps: these Debian packages are missing, and only root can install them: ${missing[*]}" >&2
    exit 1
  fi
  echo "deps: installing ${missing[*]}"
  # One unreachable third-party list must not stop what the others offer; the install below says what is really missing.
  apt-get update -q >/dev/null 2>&1 || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >/tmp/gantry-deps.$$.log 2>&1 || {
    cat /tmp/gantry-deps.$$.log >&2
    exit 1
  }
  rm -f /tmp/gantry-deps.$$.log
fi

if ! rustc --print target-libdir --target x86_64-unknown-linux-musl 2>/dev/null | xargs -r test -d; then
  echo "deps: adding the Rust target x86_64-unknown-linux-musl"
  rustup target add x86_64-unknown-linux-musl
fi
