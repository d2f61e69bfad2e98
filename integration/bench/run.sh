#!/bin/bash
# Measures pierfs beside sshfs, rclone, curl and lftp (see bench_test.go): integration/bench/run.sh [FLAGS], -h for the flags.
# Nothing of it is left behind, also when it is interrupted.
set -euo pipefail
cd "$(dirname "$0")"

if [ "$(id -u)" != 0 ]; then
	echo "integration/bench/run.sh: mounts and servers need root" >&2
	exit 77
fi

TMPDIR=$(mktemp -d /tmp/pierfs-bench.XXXXXX)
export TMPDIR
chmod 755 "$TMPDIR"

# sweep lets go of mounts whose programs were killed together with the benchmark, then removes all files.
sweep() {
	local point
	awk -v dir="$TMPDIR/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac | while read -r point; do
		umount -f -l "$(printf %b "$point")" || true
	done
	rm -rf --one-file-system "$TMPDIR"
}
trap sweep EXIT

go test -c -o "$TMPDIR/bench" .
case " $* " in
*" -h "* | *" --help "*)
	"$TMPDIR/bench" -h 2>&1 | awk '/^  -/ { ours = !/^  -test/ } ours'
	exit
	;;
esac
"$TMPDIR/bench" -test.run '^$' -test.bench '^BenchmarkFigures$' -test.benchtime 1x -test.timeout 0 "$@"
