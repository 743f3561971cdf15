#!/usr/bin/env bash
# A gateway on its simulated vendor, asked twice, and gone again. Needs a Rust toolchain and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

gateway=(cargo run --locked --quiet --)
log=$(mktemp)
server=
cleanup() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" || true
  fi
  rm -f "$log"
}
trap cleanup EXIT

cargo build --locked

echo '$ federation-gateway serve --sandbox'
# Ports that the system picks, so that this never meets another gateway.
"${gateway[@]}" serve --sandbox --listen 127.0.0.1:0 --admin-listen off --log-format json 2>"$log" &
server=$!
# `listening` says which port it was.
until addr=$(sed -n 's/.*"addr":"\([^"]*\)","server":"grpc".*/\1/p' "$log") && [ -n "$addr" ]; do
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
export FEDERATION_ADDR=http://$addr
until "${gateway[@]}" health >/dev/null 2>&1 --service federation.v1.FederationTasks; do
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done

echo
echo '$ federation-gateway query 1659446191820726274'
"${gateway[@]}" query 1659446191820726274

echo
echo '$ federation-gateway watch 1659446191820726274   # until it is DONE: about 8 s'
"${gateway[@]}" watch 1659446191820726274
