#!/usr/bin/env bash
# Counts the instructions of what the micro-benchmarks time: queue, admission, accounts, route look-up, header edits.
#
#   tests/load/bench-instructions.sh [part of a row's name]
#
# Each row runs twice under callgrind, with 1000 and with 3000 steps; the difference is that of the steps alone.
set -euo pipefail

command -v valgrind >/dev/null || {
    echo "valgrind is missing; on Debian or Ubuntu: apt-get install valgrind" >&2
    exit 2
}
few=1000
many=3000
wanted=${1:-}
cd "$(dirname "$0")/../.."

# Builds a bench and prints the path of its program.
program() {
    cargo bench --no-run --package "$1" --bench "$2" 2>&1 | tee /dev/stderr | sed -n 's/.*Executable.*(\(.*\))$/\1/p'
}

instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 | sed -n 's/.*Collected *: *//p'
}

for bench in "parkway-activator admission" "parkway-ingress routing"; do
    # shellcheck disable=SC2086 # two words
    binary=$(program $bench)
    "$binary" --list | { grep --fixed-strings -- "$wanted" || true; } | while read -r row; do
        less=$(instructions "$binary" --row "$row" --times $few)
        more=$(instructions "$binary" --row "$row" --times $many)
        printf '%-58s %8d instructions\n' "$row" $(((more - less) / (many - few)))
    done
done
