package userspace

import (
	"errors"
	"os"
	"strings"

	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
)

// ErrNotPermitted: root, or the capabilities to load programs, are missing. [Run] wraps it.
var ErrNotPermitted = loader.ErrNotPermitted

// Detach takes the program off these interfaces (none given: off all) and removes their pins, with or without a
// daemon. It returns the interfaces it detached, also beside an error. Errors are [*control.Error].
func Detach(pinDir string, ifaces ...string) ([]string, error) {
	done, err := loader.Detach(pinDir, ifaces...)
	return done, offlineError("detach", pinDir, err)
}

// Bypass writes the emergency switch into the pinned maps, with or without a daemon: on passes every packet. It
// holds until it is switched off again or the pins go. Errors are [*control.Error].
func Bypass(pinDir string, on bool) error {
	return offlineError("bypass", pinDir, loader.SetBypass(pinDir, on))
}

// offlineError gives an error of the loader the code that the exit code comes from, and what to do next.
func offlineError(verb, pinDir string, err error) error {
	wire := &control.Error{Code: control.CodeFailed}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, loader.ErrNotPermitted), errors.Is(err, os.ErrPermission):
		wire.Code, wire.Hint = control.CodeForbidden, "run it as root"
	case errors.Is(err, loader.ErrNotLoaded):
		wire.Code, wire.Hint = control.CodeNotFound, "name the directory that the daemon was given: --pin-dir DIR"
		if _, err := os.Stat(pinDir); err == nil {
			wire.Hint = "see what is pinned: ls " + pinDir + "; or " + wire.Hint
		}
		if verb == "bypass" {
			wire.Hint += "; a host without interfaces has no bypass, let everything pass with: disable_firewall"
		}
	case errors.Is(err, loader.ErrNoInterface):
		wire.Code, wire.Hint = control.CodeNotFound, "see what is pinned: ls "+pinDir
	}
	if wire.Message = err.Error(); !strings.HasPrefix(wire.Message, verb) {
		wire.Message = verb + ": " + wire.Message
	}
	return wire
}
