package shim

import (
	"encoding/json"
	"strings"
)

// jwtParts splits a token that looks like a signed or unsecured JSON web token: three segments, of which the first
// decodes to what begins like a JSON object. Whatever else has dots in it is opaque.
func jwtParts(token string) (head, payload, signature string, ok bool) {
	first := strings.IndexByte(token, '.')
	if first < 2 {
		return "", "", "", false
	}
	last := strings.LastIndexByte(token, '.')
	if last == first || strings.IndexByte(token[first+1:last], '.') >= 0 {
		return "", "", "", false
	}
	if !beginsObject(token[:first]) {
		return "", "", "", false
	}
	return token[:first], token[first+1 : last], token[last+1:], true
}

// beginsObject reports whether base64 text decodes to white space and a {.
func beginsObject(s string) bool {
	var buf [12]byte
	for len(s) > 0 {
		n := min(len(s), 8)
		out, ok := decodeBase64(buf[:0], s[:n])
		if !ok {
			return false
		}
		for _, c := range out {
			switch c {
			case ' ', '\t', '\r', '\n':
			default:
				return c == '{'
			}
		}
		s = s[n:]
	}
	return false
}

// sextets maps the characters of both base64 alphabets to their values; 0xff: none.
var sextets = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") {
		t[c] = byte(i)
	}
	t['+'], t['-'], t['/'], t['_'] = 62, 62, 63, 63
	return t
}()

// decodeBase64 appends what s encodes in either alphabet, with or without padding and white space, whatever its unused
// last bits are. ok is false if there is anything else in it.
func decodeBase64(to []byte, s string) (out []byte, ok bool) {
	var word uint32
	n := 0
	for i := 0; i < len(s); i++ {
		v := sextets[s[i]]
		if v == 0xff {
			switch s[i] {
			case '=', ' ', '\t', '\r', '\n':
				continue
			}
			return to, false
		}
		word = word<<6 | uint32(v)
		if n++; n == 4 {
			to = append(to, byte(word>>16), byte(word>>8), byte(word))
			word, n = 0, 0
		}
	}
	switch n {
	case 2:
		to = append(to, byte(word>>4))
	case 3:
		to = append(to, byte(word>>10), byte(word>>2))
	}
	return to, true
}

// appendSigned appends what a JSON web token signs, decoded, so that all its spellings are one: header, a dot that
// tells where it ends, payload.
func appendSigned(to []byte, head, payload string) (out []byte, ok bool) {
	if to, ok = decodeBase64(to, head); !ok {
		return to, false
	}
	to = append(to, 0, '.')
	return decodeBase64(to, payload)
}

// appendSignature appends the bytes of a signature. An ECDSA signature (r, s) is as good as (r, n-s): the smaller s
// is taken for both.
func appendSignature(to []byte, signature string) []byte {
	start := len(to)
	to, ok := decodeBase64(to, signature)
	if !ok {
		return append(to[:start], signature...)
	}
	switch sig := to[start:]; len(sig) {
	case 64:
		lowS(sig[32:], orderP256)
	case 96:
		lowS(sig[48:], orderP384)
	case 132:
		lowS(sig[66:], orderP521)
	}
	return to
}

// The orders of the groups of ES256, ES384 and ES512 (FIPS 186-4, D.1.2).
const (
	orderP256 = "\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51"
	orderP384 = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" +
		"\xc7\x63\x4d\x81\xf4\x37\x2d\xdf\x58\x1a\x0d\xb2\x48\xb0\xa7\x7a\xec\xec\x19\x6a\xcc\xc5\x29\x73"
	orderP521 = "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfa" +
		"\x51\x86\x87\x83\xbf\x2f\x96\x6b\x7f\xcc\x01\x48\xf7\x09\xa5\xd0\x3b\xb5\xc9\xb8\x89\x9c\x47\xae\xbb\x6f\xb7\x1e\x91\x38\x64\x09"
)

// lowS replaces s by n-s if that is smaller. Both are big-endian and of one length.
func lowS(s []byte, n string) {
	if string(s) >= n { // no signature
		return
	}
	var other [66]byte
	borrow := 0
	for i := len(s) - 1; i >= 0; i-- {
		d := int(n[i]) - int(s[i]) - borrow
		borrow = d >> 8 & 1
		other[i] = byte(d)
	}
	if string(other[:len(s)]) < string(s) {
		copy(s, other[:len(s)])
	}
}

// claims calls f with each value that some decoder finds for a top-level member of a JSON object: text as it is, numbers
// as they are written, the first element of an array. f is called more than once if the member is there more than once,
// since decoders differ in which they take.
func claims(object []byte, member string, f func(value string)) {
	i := space(object, 0)
	if i >= len(object) || object[i] != '{' {
		return
	}
	for i++; ; i++ {
		i = space(object, i)
		end := jsonString(object, i)
		if end < 0 {
			return
		}
		name := object[i:end]
		if i = space(object, end); i >= len(object) || object[i] != ':' {
			return
		}
		i = space(object, i+1)
		if end = jsonValue(object, i); end < 0 {
			return
		}
		if isText(name, member) {
			claimValue(object[i:end], f)
		}
		if i = space(object, end); i >= len(object) || object[i] != ',' {
			return
		}
	}
}

// claimValue yields one value.
func claimValue(raw []byte, f func(string)) {
	switch raw[0] {
	case '[':
		i := space(raw, 1)
		if end := jsonValue(raw, i); end > 0 && raw[i] != '[' && raw[i] != '{' {
			claimValue(raw[i:end], f)
		}
	case '"':
		if inner := textOf(raw[1 : len(raw)-1]); strings.IndexByte(inner, '\\') < 0 {
			f(inner)
			return
		}
		var text string
		if json.Unmarshal(raw, &text) == nil {
			f(text)
		}
	case '{', 't', 'f', 'n':
	default:
		f(textOf(raw))
	}
}

// isText reports whether a JSON string, quotes included, says text.
func isText(raw []byte, text string) bool {
	if inner := raw[1 : len(raw)-1]; strings.IndexByte(textOf(inner), '\\') < 0 {
		return string(inner) == text
	}
	var s string
	return json.Unmarshal(raw, &s) == nil && s == text
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// jsonString returns where the string that begins at i ends, -1 if none does.
func jsonString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// jsonValue returns where the value that begins at i ends, -1 if none does. What is inside of it is not looked at but
// for strings and how deep it nests.
func jsonValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	if b[i] == '"' {
		return jsonString(b, i)
	}
	start, depth := i, 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = jsonString(b, i) - 1; i < 0 {
				return -1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return nonEmpty(start, i)
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return nonEmpty(start, i)
			}
		case ' ', '\t', '\r', '\n':
			if depth == 0 {
				return nonEmpty(start, i)
			}
		}
	}
	if depth > 0 {
		return -1
	}
	return nonEmpty(start, i)
}

func nonEmpty(start, end int) int {
	if end == start {
		return -1
	}
	return end
}
