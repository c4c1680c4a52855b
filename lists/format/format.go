package format

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/portcullis/portcullis/lists"
)

// Format is how a list is written.
type Format string

// The formats. JSON is one object a line or one array, each object as -o json prints an entry.
const (
	Plain Format = "plain" // an address, CIDR or range a line; # and ; begin comments
	CSV   Format = "csv"   // with a header that names the columns
	JSON  Format = "json"
	IPSet Format = "ipset" // what ipset save prints
	NFT   Format = "nft"   // set elements, as nft list prints and nft -f reads them
)

// Formats returns all, in the order in which they are offered.
func Formats() []Format { return []Format{Plain, CSV, JSON, IPSet, NFT} }

// Item is one entry as a list has it. What the format does not say is zero: the list, the source, Created, By.
type Item struct {
	lists.Entry
	For  int64  // seconds that it lives from now on, in place of Expires; 0: see there
	Line int    // where it was read, from 1
	Note string // what the admin should know: host bits were masked
}

// Error is what is wrong with a line.
type Error struct {
	Line int
	Err  error
	// Last: nothing can be read behind it.
	Last bool
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// maxLine bounds a line of the formats that have lines.
const maxLine = 1 << 20

// peekSize is how much of a list its format is found by.
const peekSize = 64 << 10

// Reader reads a list. Not safe for concurrent use.
type Reader struct {
	in     *bufio.Reader
	close  func()
	format Format
}

// Open begins to read a list, compressed or not. Without a format it finds it by what comes first.
func Open(r io.Reader, f Format) (*Reader, error) {
	in := bufio.NewReaderSize(r, peekSize)
	out := &Reader{in: in, close: func() {}, format: f}
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read list: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("%w gzip: %w", lists.ErrInvalid, err)
		}
		out.in = bufio.NewReaderSize(z, peekSize)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, fmt.Errorf("%w zstd: %w", lists.ErrInvalid, err)
		}
		out.in, out.close = bufio.NewReaderSize(z, peekSize), z.Close
	}
	begin, err := out.in.Peek(peekSize)
	if err != nil && !errors.Is(err, io.EOF) {
		out.close()
		return nil, fmt.Errorf("%w list: %w", lists.ErrInvalid, err)
	}
	if bytes.HasPrefix(begin, []byte("\xef\xbb\xbf")) { // a byte order mark, as Windows programs write it
		_, _ = out.in.Discard(3)
		begin = begin[3:]
	}
	if f == "" {
		out.format = detect(string(begin))
	}
	return out, nil
}

// Close gives memory back. It does not close what Open was given.
func (r *Reader) Close() { r.close() }

// Format is what the list is read as.
func (r *Reader) Format() Format { return r.format }

// Items yields the entries in order. An error is an [*Error]; unless it is the last, the reader goes on behind it.
// Call it once.
func (r *Reader) Items() iter.Seq2[Item, error] {
	read := map[Format]func(*bufio.Reader, yield){CSV: readCSV, JSON: readJSON, IPSet: readIPSet, NFT: readNFT}[r.format]
	if read == nil {
		read = readPlain
	}
	return func(y func(Item, error) bool) { read(r.in, y) }
}

type yield = func(Item, error) bool

// detect guesses a format from the first line that says something.
func detect(begin string) Format {
	for line := range strings.Lines(begin) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#!") && strings.Contains(line, "nft") {
			return NFT
		}
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		words := strings.Fields(line)
		second := ""
		if len(words) > 1 {
			second = words[1]
		}
		switch first := strings.ToLower(words[0]); {
		case line[0] == '{' || line[0] == '[':
			return JSON
		case first == "create" && strings.Contains(line, ":"), first == "add" && second != "element" && second != "table" && second != "set":
			return IPSet
		case first == "table" || first == "add" || first == "set" || first == "elements" || first == "flush" || first == "define" || first == "create":
			return NFT
		case isHeader(line):
			return CSV
		}
		break
	}
	return Plain
}

// eachLine calls f with every line, without its end, until f says false. It returns false if f did.
func eachLine(in *bufio.Reader, y yield, f func(line string, number int) bool) {
	var long []byte
	for number := 1; ; {
		part, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) && len(long)+len(part) <= maxLine {
			long = append(long, part...)
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = fmt.Errorf("%w line: it has more than %d bytes", lists.ErrInvalid, maxLine)
			}
			y(Item{}, &Error{Line: number, Err: err, Last: true})
			return
		}
		line := part
		if len(long) > 0 {
			line = append(long, part...)
			long = long[:0]
		}
		if len(line) > 0 && !f(strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r"), number) {
			return
		}
		if err != nil {
			return
		}
		number++
	}
}

// ip makes an item of each prefix that text covers: an address, a CIDR or a range.
func ip(text string, from Item, y yield) bool {
	// What net/netip takes as an IPv4 address is canonical already.
	if a, err := parseIPv4(text); err == nil {
		from.ID = lists.ID{Kind: lists.KindIP, Value: a}
		return y(from, nil)
	}
	if first, last, ok := strings.Cut(text, "-"); ok {
		prefixes, err := rangePrefixes(strings.TrimSpace(first), strings.TrimSpace(last))
		if err != nil {
			return y(Item{}, &Error{Line: from.Line, Err: err})
		}
		for _, p := range prefixes {
			from.ID, _ = lists.PrefixID(p)
			if !y(from, nil) {
				return false
			}
		}
		return true
	}
	id, note, err := lists.ParseID(lists.KindIP, "", text)
	if err != nil {
		return y(Item{}, &Error{Line: from.Line, Err: err})
	}
	from.ID, from.Note = id, note
	return y(from, nil)
}

// readPlain reads an address, CIDR or range a line.
func readPlain(in *bufio.Reader, y yield) {
	eachLine(in, y, func(line string, number int) bool {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		if line = strings.TrimSpace(line); line == "" {
			return true
		}
		return ip(line, Item{Line: number}, y)
	})
}

// parseEnd reads a time as -o json writes it.
func parseEnd(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%w time %s: expected one such as 2026-12-24T18:00:00Z", lists.ErrInvalid, lists.Quote(text))
	}
	return t.UTC(), nil
}
