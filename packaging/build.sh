#!/usr/bin/env bash
# Builds the Debian package: packaging/build.sh [--programs DIR] [--fast] [OUTDIR]
#
#   --programs DIR   pack the pierfs and pierfsd in DIR, and build none
#   --fast           pack quickly rather than well
#
# VERSION and SOURCE_DATE_EPOCH say which version this is and of when; else the last commit does. The same sources give
# the same bytes. It needs dpkg-deb, which every Debian has, and Go where programs are to be built.
#
# It is not nfpm because nfpm cannot be had whole from every module proxy (its writers of RPM and MSIX live elsewhere), and
# brings some sixty modules for what is a tree of files and four scripts.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "$0")" && pwd)
source=$(dirname "$here")
programs= compress=-Zxz out=.
while [ $# -gt 0 ]; do
	case $1 in
	--programs) programs=$(cd "$2" && pwd) && shift ;;
	--fast) compress='-Zgzip -z1' ;;
	-*) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
	*) out=$1 ;;
	esac
	shift
done

last() { git -C "$source" -c safe.directory='*' log -1 --format="$1" 2>/dev/null; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(last %ct || echo 0)}
export SOURCE_DATE_EPOCH
date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
count=$(git -C "$source" -c safe.directory='*' rev-list --count HEAD 2>/dev/null || echo 0)
version=${VERSION:-0.1~$count.$(last %h || echo unknown)}
arch=$(dpkg --print-architecture)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"

# put MODE FROM TO: FROM is a file of packaging, or - for standard input.
put() {
	local from=$2
	[ "$from" = - ] && from=/dev/stdin
	mkdir -p "$root/$(dirname "$3")"
	cat "$from" >"$root/$3"
	chmod "$1" "$root/$3"
}

if [ -z "$programs" ]; then
	programs=$root/built
	(cd "$source" && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$programs/" ./cmd/pierfs ./cmd/pierfsd)
fi
put 755 "$programs/pierfs" usr/bin/pierfs
put 755 "$programs/pierfsd" usr/sbin/pierfsd
rm -rf "$root/built"
ln -s ../bin/pierfs "$root/usr/sbin/mount.pierfs"
ln -s ../bin/pierfs "$root/usr/sbin/umount.fuse.pierfs"
pierfs=$root/usr/bin/pierfs

put 644 "$here/systemd/pierfsd.service" usr/lib/systemd/system/pierfsd.service
put 644 "$here/systemd/pierfsd-user.service" usr/lib/systemd/user/pierfsd.service
put 644 "$here/systemd/sysusers.conf" usr/lib/sysusers.d/pierfs.conf
put 644 "$here/systemd/tmpfiles.conf" usr/lib/tmpfiles.d/pierfs.conf

"$pierfs" completion bash | put 644 - usr/share/bash-completion/completions/pierfs
"$pierfs" completion zsh | put 644 - usr/share/zsh/vendor-completions/_pierfs
"$pierfs" completion fish | put 644 - usr/share/fish/vendor_completions.d/pierfs.fish

for page in pierfs.1 pierfs.toml.5 mount.pierfs.8; do
	"$pierfs" manual $page --date "$date" | gzip -9n | put 644 - usr/share/man/man${page##*.}/$page.gz
done
"$root/usr/sbin/pierfsd" manual --date "$date" | gzip -9n | put 644 - usr/share/man/man8/pierfsd.8.gz

put 644 "$source/LICENSE" usr/share/doc/pierfs/copyright
for page in README.md CHANGELOG.md docs/{SEMANTICS,DEFINITIONS,CLI,OPERATING,FTP}.md; do
	put 644 "$source/$page" "usr/share/doc/pierfs/$page"
done

install -d -m 700 "$root/etc/pierfs" "$root/etc/pierfs/connections" "$root/etc/pierfs/environments"

size=$(du -k --apparent-size -s "$root" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" "$here/deb/control" | put 644 - DEBIAN/control
for script in postinst prerm postrm; do
	put 755 "$here/deb/$script" DEBIAN/$script
done
(cd "$root" && find usr -type f -printf '%P\0' | LC_ALL=C sort -z | (cd usr && xargs -0 md5sum) | sed 's,  ,  usr/,') | put 644 - DEBIAN/md5sums

mkdir -p "$out"
package=$out/pierfs_${version}_$arch.deb
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# shellcheck disable=SC2086
dpkg-deb --root-owner-group $compress --build "$root" "$package" >/dev/null
echo "$package"
