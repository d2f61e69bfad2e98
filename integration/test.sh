#!/usr/bin/env bash
# Runs every check of the project on a bare Debian with Go, as root: installs what is missing, fetches the FTP servers of
# the tests, then gofmt, go vet, staticcheck, all tests, the race detector, and every fuzz target for a moment. Exits
# non-zero if anything fails; a test that is skipped fails too, for it proves nothing. What needs no quiet machine runs
# beside the tests of the rooms, behind them in priority.
#
# A test that fails runs a second time, alone. If it passes then, it is named as "unsteady" in the closing lines together
# with what it wrote when it failed, and does not fail the rest: that is for a machine that stalls, and a defect all the
# same. More than eight failing tests, a data race, a panic, or a package that does not build or fails as a whole are not
# excused by any second run.
#
#   integration/test.sh                        everything
#   integration/test.sh install                only install and fetch what is missing
#   integration/test.sh tests                  everything but the installing
#   integration/test.sh these PACKAGES ARGS    only these packages, judged in the same way, with more arguments of go test
#
# PIERFS_SHARED names the directory with tools/legacy_probe.py; by default it is "shared" beside the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly script=$PWD/integration/test.sh

readonly fuzztime=${FUZZTIME:-3s}

if [ "$(id -u)" != 0 ]; then
	echo "integration/test.sh: mounts and servers need root" >&2
	exit 77
fi

# Where the FTP servers are kept: the packages of several of them exclude each other, and none has any business on this
# system, so they are unpacked beside it. The tests find them by the same rule (integration/servers/fetched.go).
readonly servers=${XDG_CACHE_HOME:-$HOME/.cache}/pierfs/servers

# A system with little more than what dpkg and mount need, for the package to be installed in (integration/package_test.go).
readonly bare=${servers%/servers}/root

step() { printf '\n== %s (%ds)\n' "$*" "$SECONDS"; }

# packages prints the Debian packages of the programs that are missing.
packages() {
	local program package
	while read -r program package; do
		command -v "$program" >/dev/null || echo "$package"
	done <<-'END' | sort -u
		sshd openssh-server
		ssh openssh-client
		ssh-keygen openssh-client
		ssh-agent openssh-client
		sftp openssh-client
		sshfs sshfs
		fusermount3 fuse3
		rsync rsync
		git git
		sqlite3 sqlite3
		vim vim
		python3 python3
		tar tar
		perl perl-base
		nsenter util-linux
		unshare util-linux
		setpriv util-linux
		mount mount
		ps procps
		curl curl
		gcc gcc
		ld binutils
		zsh zsh
		fish fish
		mandoc mandoc
		systemd-analyze systemd
		dpkg-deb dpkg
	END
	[ -e /usr/share/bash-completion/bash_completion ] || echo bash-completion
	[ -x /usr/bin/python3 ] || echo python3 # for pyftpdlib, whatever else is called python3 here
	[ -e /usr/include/stdlib.h ] || echo libc6-dev # the race detector is linked with it
}

# sound reports whether every FTP server in the directory $1 finds all it needs.
sound() {
	local lib=$1/usr/lib/$(uname -m)-linux-gnu
	[ -e "$1/usr/lib/proftpd/mod_tls.so" ] || return 1
	! LD_LIBRARY_PATH=$lib ldd "$1"/usr/sbin/{vsftpd,pure-ftpd,proftpd} "$1/usr/lib/proftpd/mod_tls.so" 2>&1 |
		grep -qE 'not found|No such file' || return 1
	LD_LIBRARY_PATH=$lib PYTHONPATH=$1/usr/lib/python3/dist-packages /usr/bin/python3 -c \
		'import OpenSSL; from pyftpdlib.handlers import TLS_FTPHandler' 2>/dev/null
}

# fetch_servers unpacks the FTP servers, with the libraries that the system lacks, unless they are there already.
fetch_servers() (
	sound "$servers" && return
	step fetch FTP servers
	local new=$servers.$$ package
	trap 'rm -rf "$new"' EXIT
	mkdir -p "$new/fetched"
	cd "$new/fetched"
	apt-get -q update
	for package in vsftpd pure-ftpd proftpd-mod-crypto proftpd-core python3-pyftpdlib python3-openssl; do
		echo $package
		# What installing it would bring along, one by one, for together they cannot be installed.
		apt-get -s -q --no-install-recommends install $package | awk '$1 == "Inst" && $2 ~ /^(lib|python3-)/ { print $2 }'
	done | sort -u | xargs apt-get -q -o APT::Sandbox::User=root download
	for package in *.deb; do
		dpkg -x "$package" "$new"
	done
	rm -rf "$new/fetched"
	if ! sound "$new"; then
		echo "integration/test.sh: the FTP servers that were fetched lack something" >&2
		exit 1
	fi
	rm -rf "$servers"
	mv "$new" "$servers"
)

# bare_sound reports whether the system in the directory $1 runs what installing needs.
bare_sound() {
	[ -e "$1/var/lib/dpkg/status" ] && chroot "$1" sh -c 'dpkg --version && mount --version && ls / && sed p && grep x /etc/passwd' </dev/null >/dev/null 2>&1
}

# fetch_bare unpacks that system, unless it is there already. Nothing of it is configured: what is installed there is ours alone.
fetch_bare() (
	bare_sound "$bare" && return
	step fetch a bare system
	local new=$bare.$$ package
	trap 'rm -rf "$new" "$new.fetched"' EXIT
	mkdir -p "$new"/{dev,proc,run,tmp,root,etc,usr/bin,usr/sbin,usr/lib,usr/lib64,var/lib/dpkg/{info,updates,triggers},var/cache} "$new.fetched"
	for package in bin sbin lib lib64; do
		ln -s usr/$package "$new/$package"
	done
	chmod 1777 "$new/tmp"
	cd "$new.fetched"
	apt-get -q update
	apt-get -q -o APT::Sandbox::User=root download base-files base-passwd dash coreutils diffutils dpkg tar sed grep mount libc6 libc-bin libacl1 \
		libattr1 libgmp10 libselinux1 libpcre2-8-0 libmount1 libblkid1 libsmartcols1 libmd0 libbz2-1.0 liblzma5 libzstd1 zlib1g
	for package in *.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --exclude='./usr/share/doc' --exclude='./usr/share/locale' --exclude='./usr/share/man' -C "$new"
	done
	cp "$new/usr/share/base-passwd/passwd.master" "$new/etc/passwd"
	cp "$new/usr/share/base-passwd/group.master" "$new/etc/group"
	touch "$new/var/lib/dpkg/status" "$new/var/lib/dpkg/available"
	if ! bare_sound "$new"; then
		echo "integration/test.sh: the bare system that was fetched lacks something" >&2
		exit 1
	fi
	rm -rf "$bare"
	mv "$new" "$bare"
)

install_missing() {
	local missing policy=/usr/sbin/policy-rc.d had_sshd=
	missing=$(packages | tr '\n' ' ')
	if [ -n "${missing// /}" ]; then
		step "install $missing"
		command -v sshd >/dev/null && had_sshd=yes
		# No package may start a service of the system; the tests start their own servers, seen by nobody else.
		if [ ! -e $policy ]; then
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod 755 $policy
			trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		fi
		export DEBIAN_FRONTEND=noninteractive
		apt-get -q update
		# shellcheck disable=SC2086
		apt-get -q -y --no-install-recommends install $missing </dev/null
		if [ -z "$had_sshd" ]; then
			rm -f /etc/systemd/system/sshd.service /etc/systemd/system/*.wants/ssh.service /etc/systemd/system/*.wants/ssh.socket
		fi
		rm -f $policy
		trap - EXIT
	fi
	fetch_servers
	fetch_bare
	if [ ! -e /dev/fuse ]; then
		modprobe fuse 2>/dev/null || true
		[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
	fi
}

# sweep lets go of mounts whose daemon was killed together with its test, then removes the tests' directory.
sweep() {
	local point
	kill $(jobs -p) 2>/dev/null || true
	awk -v dir="$TMPDIR/" '$3 ~ /^fuse/ && index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | while read -r point; do
		umount -l "$(printf %b "$point")" || true
	done
	chattr -R -f -i "$TMPDIR" || true # the places of mounts, of a daemon that was killed
	rm -rf --one-file-system "$TMPDIR"
}

# tails copies a summary of gotestsum as it comes, of each test no more than its first and last lines.
tails() {
	perl -ne '
		BEGIN { $| = 1; ($first, $last) = (20, 100) }
		sub flush {
			printf "    ... %d lines ...\n", $more if $more;
			print splice @tail;
			$n = $more = 0;
		}
		if (/^=== (FAIL|SKIP): |^=== [A-Z][a-z]+$|^DONE /) { flush(); print; $told = 1; next }
		if (!$told || $n++ < $first) { print; next }
		push @tail, $_;
		if (@tail > $last) { shift @tail; $more++ }
		END { flush() }'
}

# unforgiven prints why no second run may excuse the events in the file $1: a race, a panic, or a package that failed and
# not by a test of it, so one that could not be built, that left something behind or that was ended by its timeout.
unforgiven() {
	awk '
		function field(name,  at) {
			at = index($0, "\"" name "\":\"")
			if (!at) return ""
			at = substr($0, at + length(name) + 4)
			return substr(at, 1, match(at, /(\\n)?"[,}]/) - 1)
		}
		function why(reason) { print "FAIL: no second run excuses " package ": " reason }
		{ package = field("Package"); test = field("Test"); action = field("Action") }
		/"Output":"([ \t]|\\t)*WARNING: DATA RACE/ { grave[package] = "a data race" }
		/"Output":"([ \t]|\\t)*(panic: |fatal error: )/ { grave[package] = "a panic" }
		action == "output" && test == "" { own[package] = own[package] "    " field("Output") "\n" }
		action == "fail" && test != "" { failed[package] = 1 }
		action == "fail" && test == "" && package in grave { why(grave[package]) }
		action == "fail" && test == "" && !(package in failed) { why("failed, and not by one of its tests"); printf "%s", own[package] }
	' "$1"
}

# gotest NAME PACKAGES ARGS runs go test and tells of each test that fails or is skipped what it wrote. The tests that fail
# run once more, each alone, when all others are through: they have servers with real deadlines on cores that others use,
# too. What it tells is kept in NAME.log, its events in NAME.json, and what failed only once in the file "unsteady".
gotest() {
	local events=$TMPDIR/$1.json log=$TMPDIR/$1.log again=$TMPDIR/$1.again packages=$2 status=0 why
	shift 2
	rm -f "$again"
	"$gotestsum" --format pkgname --format-icons text --jsonfile "$events" --packages "$packages" \
		--rerun-fails=1 --rerun-fails-max-failures=8 --rerun-fails-abort-on-data-race --rerun-fails-report "$again" \
		-- -count=1 -vet=off "$@" </dev/null 2>&1 | tails | tee "$log" || status=$?
	if grep -q '"Action":"skip".*"Test":' "$events"; then
		echo "FAIL: a skipped test proves nothing" | tee -a "$log"
		status=1
	fi
	why=$(unforgiven "$events")
	if [ -n "$why" ]; then
		tee -a "$log" <<<"$why"
		status=1
	fi
	if [ $status = 0 ] && [ -s "$again" ]; then
		sed -n 's/^\(.*\): [0-9]* runs, [0-9]* failures$/unsteady: \1/p' "$again" | tee -a "$TMPDIR/unsteady"
	fi
	return $status
}

# prepare makes the tests' own directory, which goes when the script ends.
prepare() {
	TMPDIR=$(mktemp -d /tmp/pierfs.XXXXXX)
	export TMPDIR
	chmod 755 "$TMPDIR"
	trap sweep EXIT
	export PIERFS_SHARED=${PIERFS_SHARED:-$(cd .. && pwd)/shared}
	export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false" # the clone may belong to somebody else than root
	gotestsum=$(go tool -n gotestsum)
}

# What needs no quiet machine: the steps of the background.
vet() { go vet ./...; }

staticcheck() { go tool staticcheck ./...; }

# programs builds what the black-box tests start (integration/daemon), once for all of them.
programs() {
	go build -o "$PIERFS_PROGRAMS/" ./cmd/pierfs ./cmd/pierfsd &&
		go build -race -o "$PIERFS_PROGRAMS/-race/" ./cmd/pierfs ./cmd/pierfsd # the flags name the directory
}

# fuzzers builds a program for each room that has fuzz targets, and lists them in the file "targets".
fuzzers() {
	local file room
	git grep -lE '^func Fuzz' -- '*_test.go' | while read -r file; do
		room=$(dirname "$file")
		sed -nE "s|^func (Fuzz[A-Za-z0-9_]*)\(.*|$room \1|p" "$file"
	done >"$TMPDIR/targets"
	cut -d' ' -f1 "$TMPDIR/targets" | sort -u | while read -r room; do
		go test -vet=off -c -fuzz=. -o "$TMPDIR/fuzz/${room//\//-}.test" "./$room" || return 1
	done
}

readonly beside=(vet programs fuzzers staticcheck)

# background runs these steps one behind the other, and keeps what they tell and how they end.
background() {
	local name status
	for name in "${beside[@]}"; do
		status=0
		"$name" >"$TMPDIR/$name.log" 2>&1 || status=$?
		echo "$status" >"$TMPDIR/$name.status"
	done
}

# fuzz runs the target $2 of the room $1 for a moment, again if Go's own fuzzing only stumbles over the end of the time.
fuzz() {
	local try
	cd "$1"
	for try in 1 2 3; do
		"$TMPDIR/fuzz/${1//\//-}.test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$fuzztime" -test.parallel 1 \
			-test.fuzzcachedir "$TMPDIR/fuzz/cache/$1" -test.timeout 5m >"$TMPDIR/$2.log" 2>&1 </dev/null && return
		grep -q '^    context deadline exceeded$' "$TMPDIR/$2.log" && ! grep -q 'Failing input' "$TMPDIR/$2.log" || break
	done
	echo "FAIL: $2 in $1"
	tail -n 100 "$TMPDIR/$2.log"
	return 1
}

checks() {
	local failed=() name
	prepare
	export PIERFS_PROGRAMS=$TMPDIR/programs
	mkdir -p "$PIERFS_PROGRAMS/-race" "$TMPDIR/fuzz/cache"

	step gofmt
	local unformatted
	unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l)
	if [ -n "$unformatted" ]; then
		printf 'not formatted:\n%s\n' "$unformatted"
		failed+=(gofmt)
	fi

	nice -n 19 bash "$script" part background </dev/null &

	# Rooms without a goroutine have nothing to race with; the detector would only make them ten times slower.
	local -r alone='./backends/charset ./backends/ftp/listing'
	local rooms
	rooms=$(go list ./... | grep -v -e '^pierfs/integration' $(printf -- ' -e ^pierfs%s$' ${alone//.\///}))
	step tests of the rooms, with the race detector
	# They wait for deadlines and round trips far more than they compute.
	gotest rooms "$rooms ./integration/link" -race -p $((2 * $(nproc))) -timeout 10m || failed+=("tests of the rooms")

	step contract on every FTP server, and rooms without goroutines
	gotest ftp ./backends/ftp -timeout 10m -run '^TestSuite$' || failed+=("contract on every FTP server")
	gotest alone "$alone" -timeout 5m || failed+=("rooms without goroutines")

	step "${beside[*]}: what ran beside the tests"
	wait
	for name in "${beside[@]}"; do
		cat "$TMPDIR/$name.log"
		[ "$(cat "$TMPDIR/$name.status")" = 0 ] || failed+=("$name")
	done

	# One package at a time: their servers are given little time to answer. Its tests wait for servers and links most of theirs.
	step black-box tests
	gotest integration "$(go list ./integration/... | grep -v /link$)" -p 1 -parallel $((2 * $(nproc))) -timeout 20m || failed+=("black-box tests")

	step fuzz targets, "$fuzztime" each
	xargs -P "$(nproc)" -L 1 bash "$script" part fuzz <"$TMPDIR/targets" || failed+=("fuzz targets")

	step slowest tests
	for name in rooms ftp integration; do
		"$gotestsum" tool slowest --num 20 --jsonfile "$TMPDIR/$name.json" || true
	done
	step "closing lines"
	for name in rooms ftp alone integration; do
		cat "$TMPDIR/$name.log"
	done
	cat "$TMPDIR/unsteady" 2>/dev/null || true
	if [ ${#failed[@]} -gt 0 ]; then
		printf 'FAILED after %ds: %s\n' "$SECONDS" "$(IFS=,; echo "${failed[*]}")"
		return 1
	fi
	printf 'all well after %ds\n' "$SECONDS"
}

case ${1:-all} in
install) install_missing ;;
tests) checks ;;
all)
	install_missing
	checks
	;;
these)
	prepare
	gotest these "${@:2}"
	;;
part) "${@:2}" ;; # of the whole, in a process of its own
*)
	sed -n '2,/^$/s/^# \{0,1\}//p' integration/test.sh >&2
	exit 64
	;;
esac
