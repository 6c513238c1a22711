#!/bin/sh
# The process tree of the tests: a shell with two background children that sleep and count, each in a file of its own.
# Prints "ready" and then waits for them. Usage: children.sh [DIRECTORY [SECONDS]]
set -eu
dir=${1:-/tmp/children}
pause=${2:-0.1}
mkdir -p "$dir"

count() { # count NAME: write 1, 2, 3, … to the file; a reader never sees half a number
  n=0
  while :; do
    n=$((n + 1))
    echo "$n" > "$dir/$1.new"
    mv "$dir/$1.new" "$dir/$1"
    sleep "$pause"
  done
}

trap 'kill "$one" "$two" 2>/dev/null; exit 0' TERM INT
count one &
one=$!
count two &
two=$!
until [ -e "$dir/one" ] && [ -e "$dir/two" ]; do sleep "$pause"; done
echo ready
wait
