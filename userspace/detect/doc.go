// Package detect recognises requests that no honest client sends: decoys, methods, protocols and content types that the
// API does not take, a missing mandatory token. It says which answer to send and what to blacklist.
package detect
