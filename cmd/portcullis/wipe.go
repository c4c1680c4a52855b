package main

import (
	"strings"
	"unsafe"
)

// cloneStrings copies the text, not only the headers.
func cloneStrings(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.Clone(s)
	}
	return out
}

// wipe overwrites the secrets in the process's argument memory, which everybody on the host can read in
// /proc/PID/cmdline. args must be os.Args[1:] itself: the Go runtime makes those strings over the kernel's argument
// pages without a copy, and the pages are writable. Their length stays visible.
func wipe(args []string, secrets []secret) {
	for _, s := range secrets {
		text := args[s.index]
		if len(text) == s.offset {
			continue
		}
		b := unsafe.Slice(unsafe.StringData(text), len(text))
		for i := s.offset; i < len(b); i++ {
			b[i] = '*'
		}
	}
}
