package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace"
	"github.com/portcullis/portcullis/userspace/control"
)

// The exit codes; scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitForbidden   = 4
	exitRisk        = 5
	exitNotFound    = 7
	exitDropped     = 10
)

// exitCodes says in words what the codes mean, for help and documents.
var exitCodes = []struct {
	code int
	help string
}{
	{exitOK, "done; also: already on the list, or a clear that was answered with no"},
	{exitFailed, "failed; the error says what, and whether anything is known to have changed"},
	{exitUsage, "the command line or a value is wrong"},
	{exitUnreachable, "no daemon answers on the socket"},
	{exitForbidden, "not permitted: wrong user or password, or root is needed"},
	{exitRisk, "refused, because it could lock an admin out; the hint names the risk to accept"},
	{exitNotFound, "what was to be deleted is not there"},
	{exitDropped, "why: packets of at least one of the addresses are dropped, or the request is blocked or refused"},
}

// errOutput marks an [outputError].
var errOutput = errors.New("standard output")

// outputError: standard output could not be written.
type outputError struct{ cause error }

func (e *outputError) Error() string   { return "write standard output: " + e.cause.Error() }
func (e *outputError) Is(t error) bool { return t == errOutput }
func (e *outputError) Unwrap() error   { return e.cause }

// report writes an error as one line, and what to do next as another, and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	if code, ok := isSilent(err); ok {
		return code
	}
	message, hint, code := err.Error(), "", exitFailed
	var usage *usageError
	var wire *control.Error
	switch {
	case errors.As(err, &usage):
		message, hint, code = usage.message, usage.hint, exitUsage
	case errors.As(err, &wire):
		message, hint, code = wire.Message, wire.Hint, exitCode(wire.Code)
	case errors.Is(err, lists.ErrInvalid), errors.Is(err, userspace.ErrConfig):
		code = exitUsage
	case errors.Is(err, os.ErrPermission), errors.Is(err, userspace.ErrNotPermitted):
		code = exitForbidden
	}
	say(w, "error", message)
	if hint != "" {
		say(w, "hint", hint)
	}
	return code
}

// exitCode turns the API's code into the process's.
func exitCode(c control.Code) int {
	switch c {
	case control.CodeInvalid:
		return exitUsage
	case control.CodeForbidden:
		return exitForbidden
	case control.CodeRisk:
		return exitRisk
	case control.CodeNotFound:
		return exitNotFound
	case control.CodeUnreachable:
		return exitUnreachable
	}
	return exitFailed
}

// say writes one line on standard error. Nothing can be done if that fails.
func say(w io.Writer, label, text string) { fmt.Fprintf(w, "%s: %s\n", label, oneLine(text)) }

// oneLine makes outside text safe for a terminal and keeps it on one line.
func oneLine(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(s) {
		switch {
		case r == '\n':
			b.WriteString("; ")
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// note says something the admin should know on standard error, after what is already on standard output.
func (c *call) note(text string) {
	c.out.Flush() // a failure stays in the writer and is reported at the end
	say(c.err, "note", text)
}

// warn says that something is wrong that the command did not ask about.
func (c *call) warn(text string) {
	c.out.Flush()
	say(c.err, "warning", text)
}
