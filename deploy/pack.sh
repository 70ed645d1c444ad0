#!/usr/bin/env bash
# Builds a static binary and lays it out for the Dockerfile's target `packed`.
set -euo pipefail
cd "$(dirname "$0")/.."
target="$(rustc -vV | sed -n 's/^host: //p')"
RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked --target "$target" -p statecast-broker
rm -rf deploy/packed
mkdir -p deploy/packed/data
cp "target/$target/release/statecast" deploy/packed/statecast
chmod 755 deploy/packed/statecast
echo "packed deploy/packed/statecast"
