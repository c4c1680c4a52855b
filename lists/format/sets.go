package format

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// readIPSet reads what ipset save prints. All sets of the file are taken together.
func readIPSet(in *bufio.Reader, y yield) {
	eachLine(in, y, func(line string, number int) bool {
		fail := func(format string, args ...any) bool {
			return y(Item{}, &Error{Line: number, Err: fmt.Errorf("%w ipset: "+format, append([]any{lists.ErrInvalid}, args...)...)})
		}
		words, err := splitQuoted(line)
		switch {
		case err != nil:
			return fail("%w", err)
		case len(words) == 0 || strings.HasPrefix(words[0], "#") || words[0] == "create":
			return true
		case words[0] != "add" || len(words) < 3:
			return fail("%s: expected create or add", lists.Quote(line))
		}
		item := Item{Line: number}
		for rest := words[3:]; len(rest) > 0; {
			name, value := rest[0], ""
			if name == "nomatch" {
				return fail("%s is an exception (nomatch): add it to the whitelist", lists.Quote(words[2]))
			}
			if len(rest) < 2 {
				return fail("%s has no value", lists.Quote(name))
			}
			value, rest = rest[1], rest[2:]
			switch name {
			case "timeout":
				if item.For, err = strconv.ParseInt(value, 10, 64); err != nil || item.For < 0 || item.For > maxFor {
					return fail("timeout %s: expected seconds", lists.Quote(value))
				}
			case "comment":
				item.Comment = value
			case "packets", "bytes", "skbmark", "skbprio", "skbqueue":
			default:
				return fail("%s: not known", lists.Quote(name))
			}
		}
		return ip(words[2], item, y)
	})
}

const maxFor = int64(lists.MaxFor / time.Second)

var errQuote = errors.New("a quote is not closed")

// splitQuoted splits at white space, except in double quotes.
func splitQuoted(line string) (words []string, err error) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] == '"' {
			word, rest, closed := strings.Cut(line[1:], `"`)
			if !closed {
				return nil, errQuote
			}
			words, line = append(words, word), rest
			continue
		}
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			end = len(line)
		}
		words, line = append(words, line[:end]), line[end:]
	}
	return words, nil
}

// nftReader splits nft's language into words, quoted texts and punctuation.
type nftReader struct {
	in   *bufio.Reader
	line int
	err  error // what ended it, io.EOF too

	word   string // the present one
	quoted bool
}

// next reads a word. A word of one of the marks { } , = ; : stands for itself.
func (r *nftReader) next() bool {
	r.word, r.quoted = "", false
	for {
		c := r.byte()
		switch {
		case r.err != nil:
			return false
		case c == '\n' || c == ' ' || c == '\t' || c == '\r' || c == '\\':
		case c == '#':
			for c != '\n' && r.err == nil {
				c = r.byte()
			}
		case c == '"':
			return r.text()
		case strings.IndexByte("{},=;", c) >= 0:
			r.word = string(c)
			return true
		default:
			return r.plain(c)
		}
	}
}

func (r *nftReader) byte() byte {
	c, err := r.in.ReadByte()
	if err != nil {
		r.err = err
	}
	if c == '\n' {
		r.line++
	}
	return c
}

func (r *nftReader) text() bool {
	var b strings.Builder
	for {
		switch c := r.byte(); {
		case r.err != nil:
			r.err = fmt.Errorf("%w nft: %w", lists.ErrInvalid, errQuote)
			return false
		case c == '"':
			r.word, r.quoted = b.String(), true
			return true
		case b.Len() == maxLine:
			r.err = fmt.Errorf("%w nft: a text has more than %d bytes", lists.ErrInvalid, maxLine)
			return false
		default:
			b.WriteByte(c)
		}
	}
}

func (r *nftReader) plain(c byte) bool {
	var b strings.Builder
	for {
		b.WriteByte(c)
		if b.Len() > maxLine {
			r.err = fmt.Errorf("%w nft: a word has more than %d bytes", lists.ErrInvalid, maxLine)
			return false
		}
		next, err := r.in.Peek(1)
		if err != nil || strings.IndexByte("{},=;\"# \t\r\n\\", next[0]) >= 0 {
			r.word = b.String()
			return true
		}
		c = r.byte()
	}
}

// readNFT reads the elements of every set, from a listing ("elements = { ... }") or a command ("add element ... { ... }").
func readNFT(in *bufio.Reader, y yield) {
	r := &nftReader{in: in, line: 1}
	opens := false // the next brace begins elements
	for r.next() {
		switch {
		case r.quoted:
		case r.word == "elements" || r.word == "element":
			opens = true
		case r.word == "{" && opens:
			if opens = false; !r.elements(y) {
				return
			}
		case r.word == "{" || r.word == "}" || r.word == ";":
			opens = false
		}
	}
	if !errors.Is(r.err, io.EOF) {
		y(Item{}, &Error{Line: r.line, Err: r.err, Last: true})
	}
}

// elements reads up to the closing brace. It returns false if the reader wants no more.
func (r *nftReader) elements(y yield) bool {
	var words []string
	begin := r.line
	for r.next() {
		if !r.quoted && (r.word == "," || r.word == "}") {
			if len(words) > 0 && !nftElement(words, begin, y) {
				return false
			}
			if r.word == "}" {
				return true
			}
			words = words[:0]
			continue
		}
		if len(words) == 0 {
			begin = r.line
		}
		if len(words) < 64 {
			words = append(words, r.word)
		}
	}
	if errors.Is(r.err, io.EOF) {
		r.err = fmt.Errorf("%w nft: the elements have no end", lists.ErrInvalid)
	}
	y(Item{}, &Error{Line: r.line, Err: r.err, Last: true})
	return false
}

// nftElement reads one element with what is said of it.
func nftElement(words []string, line int, y yield) bool {
	item := Item{Line: line}
	key, rest := words[0], words[1:]
	if len(rest) > 1 && rest[0] == "-" {
		key, rest = key+"-"+rest[1], rest[2:]
	}
	fail := func(format string, args ...any) bool {
		return y(Item{}, &Error{Line: line, Err: fmt.Errorf("%w nft element %s: "+format, append([]any{lists.ErrInvalid, lists.Quote(key)}, args...)...)})
	}
	expires := false
	for len(rest) > 0 {
		name := rest[0]
		if name == "counter" {
			rest = rest[1:]
			continue
		}
		if len(rest) < 2 {
			return fail("%s: not known", lists.Quote(name))
		}
		value := rest[1]
		rest = rest[2:]
		switch name {
		case "comment":
			item.Comment = value
		case "packets", "bytes":
		case "timeout", "expires":
			seconds, err := nftDuration(value)
			if err != nil {
				return fail("%w", err)
			}
			if name == "expires" || !expires {
				item.For, expires = seconds, name == "expires"
			}
		default:
			return fail("%s: not known", lists.Quote(name))
		}
	}
	return ip(key, item, y)
}

// nftDuration reads a duration as nft writes it (1d2h3m4s500ms) as seconds, rounded up.
func nftDuration(text string) (int64, error) {
	days, rest := int64(0), text
	if d, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseInt(d, 10, 32)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("time %s: expected one such as 1d2h3m4s", lists.Quote(text))
		}
		days, rest = n, after
	}
	var d time.Duration
	if rest != "" {
		var err error
		if d, err = time.ParseDuration(rest); err != nil || d < 0 {
			return 0, fmt.Errorf("time %s: expected one such as 1d2h3m4s", lists.Quote(text))
		}
	}
	seconds := days*86400 + int64((d+time.Second-1)/time.Second)
	if seconds > maxFor {
		return 0, fmt.Errorf("time %s: it is longer than 100 years", lists.Quote(text))
	}
	return seconds, nil
}
