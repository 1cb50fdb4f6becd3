#!/usr/bin/env bash
# Licences, sources and duplicates by cargo-deny where it is installed; the licences are checked by a test as well
# (tests/e2e/licences.rs), so a machine without cargo-deny still refuses a new one.
set -euo pipefail
if ! command -v cargo-deny >/dev/null 2>&1; then
  echo "deny: cargo-deny is not installed, its check is left out (the licence test still runs)"
  exit 0
fi
cargo deny --offline check bans licenses sources
# Advisories need their database, which not every machine can fetch.
cargo deny check advisories || {
  [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ] && exit 1
  echo "deny: the advisory database cannot be reached, advisories are left out"
}
