package shim

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// spelling says how a value was read out of a request.
type spelling uint8

const (
	asIs spelling = iota
	unquoted
	unescaped
	decoded // percent-decoded
	decodedPlus
	decodedU
	latin1
	caseless
)

var spellingWords = [...]string{
	"as it is", "without its quotes", "with its escapes undone", "percent-decoded", "percent-decoded, + being a space",
	"percent-decoded with %uXXXX", "as Latin-1", "in any case",
}

func (s spelling) String() string { return spellingWords[s] }

// speller holds the buffers that spellings are written to. What it yields lives until the next call.
type speller struct{ a, b, c []byte }

// each calls f with every value that some backend makes of raw, the first being raw itself, none of them empty; again
// the same one at times. decode: backends undo percent-encoding where it was found.
func (p *speller) each(raw string, decode bool, f func(value string, how spelling)) {
	signs := signsOf(raw)
	quoted := signs&(signQuote|signEscape) != 0
	if !quoted && signs&signHigh == 0 && (!decode || signs&signCode == 0) {
		if raw != "" {
			f(raw, asIs)
		}
		return
	}
	p.decodings(raw, asIs, decode, f)
	if !quoted {
		return
	}
	if bare := unquote(raw); bare != raw {
		p.decodings(bare, unquoted, decode, f)
	}
	if strings.IndexByte(raw, '\\') >= 0 {
		p.a = unescape(p.a[:0], unquote(raw))
		p.decodings(textOf(p.a), unescaped, decode, f)
	}
}

// decodings yields one reading and what decoding makes of it.
func (p *speller) decodings(v string, how spelling, decode bool, f func(string, spelling)) {
	p.charsets(v, how, f)
	if !decode || !encoded(v) {
		return
	}
	p.b = percentDecode(p.b[:0], v, false)
	p.charsets(textOf(p.b), decoded, f)
	if strings.IndexByte(v, '+') >= 0 {
		p.b = percentDecode(p.b[:0], strings.ReplaceAll(v, "+", " "), false)
		p.charsets(textOf(p.b), decodedPlus, f)
	}
	if strings.Contains(v, "%u") || strings.Contains(v, "%U") {
		p.b = percentDecode(p.b[:0], strings.ReplaceAll(v, "+", " "), true)
		p.charsets(textOf(p.b), decodedU, f)
	}
}

// charsets yields one reading, and what backends make of it that take each byte for a letter.
func (p *speller) charsets(v string, how spelling, f func(string, spelling)) {
	if v == "" {
		return
	}
	f(v, how)
	if ascii(v) {
		return
	}
	p.c = p.c[:0]
	for i := 0; i < len(v); i++ {
		p.c = utf8.AppendRune(p.c, rune(v[i]))
	}
	f(textOf(p.c), latin1)
}

// trimBlanks takes spaces and tabs away at both ends.
func trimBlanks(s string) string {
	for s != "" && isBlank(s[0]) {
		s = s[1:]
	}
	for s != "" && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// indexBlank returns where the first space or tab is, -1 if there is none.
func indexBlank(s string) int {
	space := strings.IndexByte(s, ' ')
	before := s
	if space >= 0 {
		before = s[:space]
	}
	if tab := strings.IndexByte(before, '\t'); tab >= 0 {
		return tab
	}
	return space
}

// lastBlank returns where the last space or tab is, -1 if there is none. signs are those of s.
func lastBlank(s string, signs sign) int {
	if signs&(signSpace|signTab) == 0 {
		return -1
	}
	return max(strings.LastIndexByte(s, ' '), strings.LastIndexByte(s, '\t'))
}

// sign tells what is in a text.
type sign uint8

const (
	signQuote  sign = 1 << iota // "
	signEscape                  // a backslash
	signCode                    // % or +
	signHigh                    // what is not ASCII
	signComma
	signSemicolon
	signTab
	signSpace
	// signSpelled: a value with one of these has several spellings, others have one ([speller.each]).
	signSpelled = signQuote | signEscape | signCode | signHigh
)

var signs = func() (t [256]sign) {
	for i := 0x80; i < len(t); i++ {
		t[i] = signHigh
	}
	t['"'], t['\\'], t['%'], t['+'], t[','], t[';'], t['\t'], t[' '] = signQuote, signEscape, signCode, signCode, signComma, signSemicolon, signTab, signSpace
	return t
}()

// signsOf looks once at what would else be searched for sign by sign.
func signsOf(s string) (all sign) {
	for i := 0; i < len(s); i++ {
		all |= signs[s[i]]
	}
	return all
}

func encoded(s string) bool { return strings.IndexByte(s, '%') >= 0 || strings.IndexByte(s, '+') >= 0 }

func ascii(s string) bool {
	b := bytesOf(s)
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// unquote takes one pair of quotes away, or the first quote if the second is missing.
func unquote(s string) string {
	if rest, ok := strings.CutPrefix(s, `"`); ok {
		return strings.TrimSuffix(rest, `"`)
	}
	return s
}

// unescape appends s with \ooo (octal) and \x undone.
func unescape(to []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\' || i+1 == len(s):
			to = append(to, s[i])
		case i+3 < len(s) && s[i+1] >= '0' && s[i+1] <= '3' && octal(s[i+2]) && octal(s[i+3]):
			to = append(to, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
		default:
			to = append(to, s[i+1])
			i++
		}
	}
	return to
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// percentDecode appends s with escapes of two digits undone; what is no escape stays as it is. wide: %u and four digits too.
func percentDecode(to []byte, s string, wide bool) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex[s[i+1]], unhex[s[i+2]]
			if hi|lo < 16 {
				to = append(to, hi<<4|lo)
				i += 2
				continue
			}
			if wide && (s[i+1] == 'u' || s[i+1] == 'U') && i+5 < len(s) {
				a, b, c, d := unhex[s[i+2]], unhex[s[i+3]], unhex[s[i+4]], unhex[s[i+5]]
				if a|b|c|d < 16 {
					to = utf8.AppendRune(to, rune(a)<<12|rune(b)<<8|rune(c)<<4|rune(d))
					i += 5
					continue
				}
			}
		}
		to = append(to, s[i])
	}
	return to
}

// unhex is 0xff for what is no hexadecimal digit.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := byte(0); i < 10; i++ {
		t['0'+i] = i
	}
	for i := byte(0); i < 6; i++ {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()

// folds maps each byte of a name to how it is compared: letters in lower case, everything in ASCII that is no letter
// or digit as one, since one backend or another takes it for the same.
var folds = func() (t [256]byte) {
	for i := range t {
		c := byte(i)
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c < 0x80 && !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9'):
			c = '-'
		}
		t[i] = c
	}
	return t
}()

// foldName appends a name as names are compared: X_API.KEY is x-api-key. Leading spaces do not count, nor does what
// makes the element of an array of it (PHP, Rack: name[], name[0]), nor what follows a NUL.
func foldName(to []byte, name string) []byte {
	for name != "" && (name[0] == ' ' || name[0] == '\t') {
		name = name[1:]
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c == '[' && i > 0 || c == 0 {
			break
		} else {
			to = append(to, folds[c])
		}
	}
	return to
}

// foldEncoded is foldName of a name that may be percent-encoded.
func (p *speller) foldEncoded(to []byte, name string) []byte {
	if encoded(name) {
		p.b = percentDecode(p.b[:0], name, false)
		name = textOf(p.b)
		for name != "" && name[0] == '+' { // a leading space, which does not count
			name = name[1:]
		}
	}
	return foldName(to, name)
}
