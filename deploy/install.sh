#!/bin/sh
# Installs portcullis from bin/, or removes it again: install.sh [install|uninstall]
#
#   DESTDIR   put everything below this folder (packaging); default: none
#   PREFIX    /usr/local (default) or /usr
#   ASE_HOME  /opt/pingidentity/ase (default): scripts written for ASE look for bin/cli.sh there
#
# Lists (/var/lib/portcullis) and configuration (/etc/portcullis) are never overwritten and never removed.
set -eu

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
ASE_HOME=${ASE_HOME:-/opt/pingidentity/ase}

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
binary=$PREFIX/bin/portcullis
config=/etc/portcullis/portcullis.toml
unit=$PREFIX/lib/systemd/system/portcullis.service

fail() {
	echo "error: $1" >&2
	[ $# -lt 2 ] || echo "hint: $2" >&2
	exit 1
}

# put MODE SOURCE TARGET: replaces the target in one step, so that a running binary is not disturbed.
put() {
	mkdir -p -- "$DESTDIR${3%/*}"
	install -m "$1" -- "$2" "$DESTDIR$3.new"
	mv -f -- "$DESTDIR$3.new" "$DESTDIR$3"
	echo "$DESTDIR$3"
}

# generated files, one "target<TAB>command" a line
generated() {
	printf '%s\t%s\n' \
		"$PREFIX/share/man/man1/portcullis.1" 'man' \
		"$PREFIX/share/bash-completion/completions/portcullis" 'completion bash' \
		"$PREFIX/share/zsh/site-functions/_portcullis" 'completion zsh' \
		"$PREFIX/share/fish/vendor_completions.d/portcullis.fish" 'completion fish'
}

# gateways: what gateways are configured with to ask us, below deploy
gateways() {
	(cd "$top/deploy" && find nginx haproxy caddy traefik envoy -type f)
}

reload() {
	if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
		systemctl daemon-reload
	fi
}

install_all() {
	[ -x "$top/bin/portcullis" ] || fail "no $top/bin/portcullis" "make build"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	generated | while IFS="$(printf '\t')" read -r target command; do
		# shellcheck disable=SC2086 # a command of two words
		"$top/bin/portcullis" $command >"$work/out"
		put 0644 "$work/out" "$target"
	done
	sed "s|/usr/local/bin/portcullis|$binary|g" "$top/deploy/portcullis.service" >"$work/unit"
	put 0755 "$top/bin/portcullis" "$binary"
	put 0755 "$top/deploy/cli.sh" "$ASE_HOME/bin/cli.sh"
	# Beside cli.sh, because cron and other callers have no /usr/local/bin in PATH.
	ln -sf -- "$binary" "$DESTDIR$ASE_HOME/bin/portcullis"
	put 0644 "$work/unit" "$unit"
	put 0644 "$top/deploy/portcullis.socket" "${unit%.service}.socket"
	put 0644 "$top/deploy/portcullis.toml" "$PREFIX/share/doc/portcullis/portcullis.toml"
	gateways | while read -r name; do
		put 0644 "$top/deploy/$name" "$PREFIX/share/doc/portcullis/$name"
	done
	if [ -e "$DESTDIR$config" ]; then
		echo "$DESTDIR$config (kept)"
	else
		put 0644 "$top/deploy/portcullis.toml" "$config"
	fi
	reload
}

uninstall_all() {
	if [ -z "$DESTDIR" ]; then
		if [ -d /run/systemd/system ] && systemctl is-active --quiet portcullis; then
			fail "portcullis is running" "systemctl disable --now portcullis, then: portcullis detach"
		fi
		if [ -e /sys/fs/bpf/portcullis ]; then
			fail "the kernel still enforces the lists" "portcullis detach"
		fi
	fi
	generated | while IFS="$(printf '\t')" read -r target _; do
		rm -f -- "$DESTDIR$target"
	done
	rm -f -- "$DESTDIR$binary" "$DESTDIR$ASE_HOME/bin/cli.sh" "$DESTDIR$ASE_HOME/bin/portcullis" \
		"$DESTDIR$unit" "$DESTDIR${unit%.service}.socket" "$DESTDIR$PREFIX/share/doc/portcullis/portcullis.toml"
	gateways | while read -r name; do
		rm -f -- "$DESTDIR$PREFIX/share/doc/portcullis/$name"
		rmdir -- "$DESTDIR$PREFIX/share/doc/portcullis/${name%/*}" 2>/dev/null || true
	done
	rmdir -p -- "$DESTDIR$ASE_HOME/bin" "$DESTDIR$PREFIX/share/doc/portcullis" 2>/dev/null || true
	reload
	echo "kept: $DESTDIR/etc/portcullis, $DESTDIR/var/lib/portcullis"
}

case "${1:-install}" in
install) install_all ;;
uninstall) uninstall_all ;;
*) fail "unknown action $1" "install.sh [install|uninstall]" ;;
esac
