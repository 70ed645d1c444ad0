#!/usr/bin/env bash
# Statecast beside Redis Streams and NATS JetStream, with one load generator, on
# the loopback interface. Needs redis-server and nats-server (Debian has both);
# a peer that isn't there is left out. Takes about three minutes.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-4}"

cargo build --quiet --release
cargo build --quiet --release --manifest-path ../../Cargo.toml -p statecast-broker
statecast="$(cd ../.. && pwd)/target/release/statecast"
peers=target/release/statecast-peers
directory="$(mktemp -d)"
server=""
stop() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=""
    fi
}
trap 'stop; rm -rf "$directory"' EXIT

wait_for_port() {
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
        sleep 0.05
    done
    echo "nothing listens on port $1" >&2
    return 1
}

mkdir "$directory/statecast"
"$statecast" serve --data-dir "$directory/statecast" --listen 127.0.0.1:17420 --http-listen off \
    --log-level error >/dev/null &
server=$!
wait_for_port 17420
# Journal files are prepared in the background.
sleep 5
"$peers" statecast http://127.0.0.1:17420 --label "Statecast, always" --seconds "$seconds"
stop
rm -rf "$directory/statecast"
"$statecast" serve --data-dir "$directory/statecast" --listen 127.0.0.1:17420 --http-listen off \
    --log-level error >/dev/null &
server=$!
wait_for_port 17420
sleep 5
"$peers" statecast http://127.0.0.1:17420 --label "Statecast, os" --flush os --seconds "$seconds"
stop

if command -v redis-server >/dev/null; then
    for fsync in always everysec; do
        mkdir "$directory/redis-$fsync"
        redis-server --port 17421 --bind 127.0.0.1 --dir "$directory/redis-$fsync" --appendonly yes \
            --appendfsync "$fsync" --save '' --daemonize no >/dev/null &
        server=$!
        wait_for_port 17421
        "$peers" redis redis://127.0.0.1:17421 --label "Redis Streams, appendfsync $fsync" --seconds "$seconds"
        stop
        rm -rf "$directory/redis-$fsync"
    done
fi

if command -v nats-server >/dev/null; then
    nats-server --addr 127.0.0.1 --port 17422 --jetstream --store_dir "$directory/nats" 2>/dev/null &
    server=$!
    wait_for_port 17422
    "$peers" nats 127.0.0.1:17422 --label "NATS JetStream, its defaults" --seconds "$seconds"
    stop
fi
