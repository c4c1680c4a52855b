#!/bin/sh
# cli.sh - the command line under the name scripts know: runs portcullis with the same arguments.
#
# The binary is $PORTCULLIS_BIN, or portcullis beside this script (links followed), or in bin/ beside it,
# or in PATH.
set -eu

if [ -n "${PORTCULLIS_BIN:-}" ]; then
	exec "$PORTCULLIS_BIN" "$@"
fi

self=$(readlink -f -- "$0") || self=$0
here=${self%/*}
for bin in "$here/portcullis" "$here/bin/portcullis"; do
	if [ -f "$bin" ] && [ -x "$bin" ]; then
		exec "$bin" "$@"
	fi
done
if command -v portcullis >/dev/null 2>&1; then
	exec portcullis "$@"
fi
echo "error: no portcullis binary beside $self and none in PATH" >&2
echo "hint: install it, build it with make build, or set PORTCULLIS_BIN" >&2
exit 1
