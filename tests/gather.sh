#!/usr/bin/env bash
# Puts the programs side by side, as they are installed.
# usage: gather.sh <folder of gantryd and gantry> <folder of gantry-shim> <destination>
set -euo pipefail
programs=$1 shim=$2 destination=$3
mkdir -p "$destination"
for file in "$programs/gantryd" "$programs/gantry" "$shim/gantry-shim"; do
  # A rename, not a copy into place: the old file may be running.
  cp "$file" "$destination/.new" && mv -f "$destination/.new" "$destination/$(basename "$file")"
done
ln -sfn gantry-shim "$destination/containerd-shim-gantry-v1"
