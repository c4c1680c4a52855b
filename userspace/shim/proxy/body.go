package proxy

import (
	"errors"
	"io"
	"strconv"
	"strings"
)

// errBody: a body is not framed as it must be.
var errBody = errors.New("malformed body")

// Bounds of what surrounds chunks.
const (
	maxChunkLine   = 256
	maxTrailers    = 32
	maxTrailerLine = 4 << 10
	maxTrailerSize = 8 << 10
)

// input is a buffered connection that is read from.
type input struct {
	from io.Reader
	buf  []byte
	r, w int
	// before is told that the next read may wait; nil: nobody is.
	before interface{ pause() error }
}

func (in *input) buffered() []byte { return in.buf[in.r:in.w] }

// fill reads more into the buffer, after what is in it.
func (in *input) fill() error {
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if in.w == len(in.buf) {
		if in.r == 0 {
			return io.ErrShortBuffer
		}
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if in.before != nil {
		if err := in.before.pause(); err != nil {
			return err
		}
	}
	n, err := in.from.Read(in.buf[in.w:])
	if in.w += n; n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// line returns the next line without its CRLF, of at most limit bytes; it is valid until the next read.
func (in *input) line(limit int) ([]byte, error) {
	for from := in.r; ; {
		for i := from; i < in.w; i++ {
			if in.buf[i] != '\n' {
				continue
			}
			if i == in.r || in.buf[i-1] != '\r' || i-in.r > limit {
				return nil, errBody
			}
			l := in.buf[in.r : i-1]
			in.r = i + 1
			return l, nil
		}
		have := in.w - in.r
		if have > limit {
			return nil, errBody
		}
		if err := in.fill(); err != nil {
			return nil, unexpected(err)
		}
		from = in.r + have
	}
}

// unexpected: a connection that ends within a message.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// body reads a message's body, as it is framed, and nothing beyond it.
type body struct {
	in *input
	framing
	left     int64 // of the present chunk, or of all
	inChunk  bool
	done     bool
	trailers []field
}

func newBody(in *input, f framing) *body {
	return &body{in: in, framing: f, left: f.length, done: f.empty()}
}

// next returns the next piece of the body, which is valid until the next call; nil at its end.
func (b *body) next() ([]byte, error) {
	if b.done {
		return nil, nil
	}
	if b.chunked && b.left <= 0 {
		if err := b.nextChunk(); err != nil || b.done {
			return nil, err
		}
	}
	if b.in.r == b.in.w {
		switch err := b.in.fill(); {
		case err == io.EOF && b.length < 0 && !b.chunked:
			b.done = true
			return nil, nil
		case err != nil:
			return nil, unexpected(err)
		}
	}
	piece := b.in.buffered()
	if (b.chunked || b.length >= 0) && int64(len(piece)) > b.left {
		piece = piece[:b.left]
	}
	b.in.r += len(piece)
	if b.chunked || b.length >= 0 {
		b.left -= int64(len(piece))
		b.done = b.left == 0 && !b.chunked
	}
	return piece, nil
}

// nextChunk reads what is before the next chunk's bytes, and after the last one all that is left.
func (b *body) nextChunk() error {
	if b.inChunk {
		if l, err := b.in.line(0 + 1); err != nil || len(l) != 0 {
			return cmpErr(err, errBody)
		}
	}
	l, err := b.in.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, ok := parseChunkSize(l)
	if !ok {
		return errBody
	}
	b.left, b.inChunk = size, true
	if size > 0 {
		return nil
	}
	return b.readTrailers()
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (b *body) readTrailers() error {
	size := 0
	for {
		l, err := b.in.line(maxTrailerLine)
		if err != nil {
			return err
		}
		if len(l) == 0 {
			b.done = true
			return nil
		}
		name, value, ok := cutField(string(l))
		if size += len(l); !ok || len(b.trailers) == maxTrailers || size > maxTrailerSize {
			return errBody
		}
		b.trailers = append(b.trailers, field{name: name, value: value})
	}
}

// parseChunkSize reads the line before a chunk. Extensions are let pass and forgotten.
func parseChunkSize(l []byte) (int64, bool) {
	var n int64
	digits := 0
	for ; digits < len(l); digits++ {
		c, d := l[digits], byte(0)
		switch {
		case c >= '0' && c <= '9':
			d = c - '0'
		case c >= 'a' && c <= 'f':
			d = c - 'a' + 10
		case c >= 'A' && c <= 'F':
			d = c - 'A' + 10
		default:
			d = 255
		}
		if d == 255 {
			break
		}
		if digits == 13 { // 2^52 is enough for anybody
			return 0, false
		}
		n = n<<4 | int64(d)
	}
	if digits == 0 {
		return 0, false
	}
	rest := l[digits:]
	for _, c := range rest {
		if c < ' ' && c != '\t' || c == 0x7f {
			return 0, false
		}
	}
	if ext := strings.TrimLeft(string(rest), " \t"); ext != "" && ext[0] != ';' || ext == "" && len(rest) > 0 {
		return 0, false
	}
	return n, true
}

// appendChunk frames a piece as a chunk.
func appendChunk(out, piece []byte) []byte {
	out = strconv.AppendInt(out, int64(len(piece)), 16)
	out = append(out, "\r\n"...)
	out = append(out, piece...)
	return append(out, "\r\n"...)
}

// appendLast ends a chunked body.
func appendLast(out []byte, trailers []field) []byte {
	out = append(out, "0\r\n"...)
	for _, t := range trailers {
		out = appendField(out, t.name, t.value)
	}
	return append(out, "\r\n"...)
}

func appendField(out []byte, name, value string) []byte {
	out = append(out, name...)
	out = append(out, ": "...)
	out = append(out, value...)
	return append(out, "\r\n"...)
}
