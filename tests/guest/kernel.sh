#!/usr/bin/env bash
# Fetches Debian's cloud kernel and unpacks it, without installing it: FOLDER/kernel/boot/vmlinuz-*, FOLDER/kernel/lib/modules.
# What is there already is used again.
# usage: kernel.sh FOLDER
set -euo pipefail

folder=${1:?the folder to keep the kernel in}
fail() { echo "kernel: $*" >&2; exit 1; }

# Complete or not there: the folder gets its name last.
if [ -d "$folder/kernel" ]; then
  exit 0
fi
mkdir -p "$folder"
exec 9>"$folder/lock"
flock -w 120 9 || fail "another run holds $folder/lock"
[ ! -d "$folder/kernel" ] || exit 0

meta=linux-image-cloud-amd64
name() { apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1; }
package=$(name)
if [ -z "$package" ]; then
  [ "$(id -u)" != 0 ] || apt-get update -q >/dev/null 2>&1 || true
  package=$(name)
fi
[ -n "$package" ] || fail "apt knows no $meta: are Debian's package lists there (apt-get update)?"

work=$(mktemp -d "$folder/fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
fetch() { (cd "$work" && apt-get download -q "$package" 2>&1); }
said=$(fetch) || {
  # The lists may be older than what the archive still has.
  [ "$(id -u)" != 0 ] || apt-get update -q >/dev/null 2>&1 || true
  package=$(name)
  said=$(fetch) || fail "$package cannot be downloaded: $said"
}
dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel" || fail "$package cannot be unpacked"
ls "$work"/kernel/boot/vmlinuz-* >/dev/null 2>&1 || fail "$package has no boot/vmlinuz"
mv "$work/kernel" "$folder/kernel"
