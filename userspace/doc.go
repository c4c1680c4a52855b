// Package userspace wires one node together: store, kernel, control API, guard against lock-out. It owns the goroutines.
package userspace
