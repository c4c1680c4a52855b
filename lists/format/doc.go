// Package format reads and writes lists as others keep them: plain lists, CSV, JSON, ipset save, nft sets. Readers
// stream, take gzip and zstd as they come, say what is wrong with which line, and can go on behind it.
package format
