#!/usr/bin/env bash
# Unpacks programs of the next Debian (trixie) with everything they need into a folder, and never installs them. The tests
# run the newer peers from there.
# usage: trixie.sh <folder> <package>...      prints nothing when all is there already
# Then <folder>/bin has a starter for each program of the named packages, with trixie's libraries.
set -euo pipefail

folder=$1
shift
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9>"$folder/lock"
flock 9

missing=()
for package in "$@"; do
  [ -e "$folder/have/$package" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

apt=$folder/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/empty" "$folder/root" "$folder/bin" "$folder/have"
: >"$apt/status"
cat >"$apt/sources.list" <<SOURCES
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
SOURCES
options=(
  -o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/empty" -o "Dir::Etc::PreferencesParts=$apt/empty"
  -o "Dir::State::Lists=$apt/lists" -o "Dir::State::Status=$apt/status" -o "Dir::Cache=$apt" -o "Dir::Cache::Archives=$apt/archives"
  -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Debug::NoLocking=true
)
apt-get "${options[@]}" update -qq
# With an empty status everything that is needed is fetched: the system's own libraries are older.
apt-get "${options[@]}" install -qq -y --download-only "${missing[@]}" >/dev/null
for archive in "$apt"/archives/*.deb; do
  dpkg-deb -x "$archive" "$folder/root"
done
rm -f "$apt"/archives/*.deb

root=$folder/root
for package in "${missing[@]}"; do
  apt-cache "${options[@]}" show "$package" | sed -n 's/^Version: //p' | head -n 1 >"$folder/version-$package"
done
for program in "$root"/usr/bin/* "$root"/usr/sbin/*; do
  name=$(basename "$program")
  [ -f "$program" ] && [ -x "$program" ] || continue
  if readelf -l "$program" 2>/dev/null | grep -q INTERP; then
    cat >"$folder/bin/$name" <<STARTER
#!/bin/sh
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" --argv0 "\$0" "$program" "\$@"
STARTER
    chmod 0755 "$folder/bin/$name"
  else
    ln -sf "$program" "$folder/bin/$name"
  fi
done
for package in "${missing[@]}"; do
  touch "$folder/have/$package"
done
