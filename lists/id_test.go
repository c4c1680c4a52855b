package lists

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseIDIP(t *testing.T) {
	for _, c := range []struct{ in, want, note, err string }{
		{in: "1.1.1.1", want: "1.1.1.1"},
		{in: "1.1.1.1/32", want: "1.1.1.1"},
		{in: "10.0.0.1/8", want: "10.0.0.0/8", note: "10.0.0.1/8 has host bits set: 10.0.0.0/8 is listed"},
		{in: "0.0.0.0/0", want: "0.0.0.0/0"},
		{in: "::/0", want: "::/0"},
		{in: "2001:DB8:0:0::1", want: "2001:db8::1"},
		{in: "2001:db8::1/128", want: "2001:db8::1"},
		{in: "2001:db8::1/32", want: "2001:db8::/32", note: "2001:db8::1/32 has host bits set: 2001:db8::/32 is listed"},
		{in: "::ffff:1.2.3.4", want: "1.2.3.4"},
		{in: "::ffff:102:304", want: "1.2.3.4"},
		{in: "::ffff:1.2.3.4/128", want: "1.2.3.4"},
		{in: "::ffff:1.2.3.0/120", want: "1.2.3.0/24"},
		{in: "::ffff:0:0/96", want: "0.0.0.0/0"},
		{in: "::1.2.3.4", want: "::102:304"},
		{in: "::ffff:1.2.3.4/95", err: "an IPv4-mapped prefix is at least /96 long"},
		{in: "fe80::1%eth0", err: "no zone"},
		{in: "fe80::1%eth0/64", err: "no zone"},
		{in: "010.1.1.1", err: "leading zeros"},
		{in: "1.2.3.04/24", err: "leading zeros"},
		{in: "1.2.3.4/08", err: `prefix length "08"`},
		{in: "1.2.3.4/33", err: `prefix length "33" is not a number from 0 to 32`},
		{in: "2001:db8::/129", err: "from 0 to 128"},
		{in: "1.2.3.4/", err: `prefix length ""`},
		{in: "1.2.3.4/-1", err: "prefix length"},
		{in: "1.2.3.4/24/24", err: "prefix length"},
		{in: "1.2.3", err: "it is not an address"},
		{in: "1.2.3.256", err: "it is not an address"},
		{in: " 1.2.3.4", err: `" 1.2.3.4"`},
		{in: "1.2.3.4\n", err: `"1.2.3.4\n"`},
		{in: "", err: "it is empty"},
		{in: "example.com", err: `invalid ip "example.com": it is not an address; expected an IPv4 or IPv6 address or CIDR, such as 1.1.1.1, 10.0.0.0/8 or 2001:db8::/32`},
		{in: strings.Repeat("1", 10000), err: "(10000 bytes)"},
	} {
		id, note, err := ParseID(KindIP, "", c.in)
		if c.err != "" {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.err) || id != (ID{}) || len(err.Error()) > 400 {
				t.Errorf("%s: got %v, %v; want an error with %q", Quote(c.in), id, err, c.err)
			}
			continue
		}
		if err != nil || id != (ID{Kind: KindIP, Value: c.want}) || note != c.note {
			t.Errorf("%s: got %v, note %q, error %v; want %s, note %q", Quote(c.in), id, note, err, c.want, c.note)
		}
		if got := id.String(); got != "ip "+c.want {
			t.Errorf("String: %q", got)
		}
		if p, ok := id.Prefix(); !ok || p != p.Masked() || formatPrefix(p) != c.want {
			t.Errorf("Prefix of %s: %v %v", c.in, p, ok)
		}
	}
}

func TestParseIDText(t *testing.T) {
	for _, c := range []struct {
		kind        Kind
		name, value string
		note, err   string
	}{
		{kind: KindCookie, name: "JSESSIONID", value: "cookie_1.4"},
		{kind: KindAPIKey, name: "X-API-KEY", value: "--for"},
		{kind: KindToken, value: "-"},
		{kind: KindUsername, value: "your name"},
		{kind: KindUsername, value: "Ünïcode \u202e name"},
		{kind: KindToken, value: strings.Repeat("x", MaxValue)},
		{kind: KindCookie, name: strings.Repeat("n", MaxName), value: "v"},
		{kind: KindUsername, value: "bob ", note: `username "bob " begins or ends with a space`},
		{kind: KindToken, value: strings.Repeat("x", MaxValue+1), err: "it is 8193 bytes long"},
		{kind: KindCookie, name: strings.Repeat("n", MaxName+1), value: "v", err: "it is 257 bytes long"},
		{kind: KindToken, value: "", err: `invalid token "": it is empty`},
		{kind: KindToken, value: "a\tb", err: `"a\tb": it contains a control character`},
		{kind: KindToken, value: "a\x7f", err: "control character"},
		{kind: KindToken, value: "a\u009bb", err: "control character"},
		{kind: KindToken, value: "a\x00", err: "control character"},
		{kind: KindUsername, value: "\xff", err: `"\xff": it is not valid UTF-8`},
		{kind: KindCookie, value: "v", err: `name "" of cookie: it is empty`},
		{kind: KindAPIKey, name: "a b", value: "v", err: "white space"},
		{kind: KindCookie, name: "a=b", value: "v", err: "no = ; or ,"},
		{kind: KindToken, name: "n", value: "v", err: "token has a value only"},
		{kind: KindIP, name: "n", value: "1.1.1.1", err: "ip has a value only"},
		{kind: 0, value: "v", err: "expected one of ip, cookie"},
		{kind: 9, value: "v", err: "expected one of ip, cookie"},
	} {
		id, note, err := ParseID(c.kind, c.name, c.value)
		if c.err != "" {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.err) || id != (ID{}) {
				t.Errorf("%s %s %s: got %v, want an error with %q", c.kind, Quote(c.name), Quote(c.value), err, c.err)
			}
			continue
		}
		if err != nil || id != (ID{c.kind, c.name, c.value}) || !strings.HasPrefix(note, c.note) || (note == "") != (c.note == "") {
			t.Errorf("%s %s %s: got %v, note %q, error %v", c.kind, Quote(c.name), Quote(c.value), id, note, err)
		}
		if _, ok := id.Prefix(); ok {
			t.Errorf("%v has a prefix", id)
		}
	}
}

func TestIDString(t *testing.T) {
	if got := (ID{KindCookie, "JSESSIONID", "cookie_1.4"}).String(); got != "cookie JSESSIONID cookie_1.4" {
		t.Error(got)
	}
	if got := (ID{KindUsername, "", "your name"}).String(); got != "username your name" {
		t.Error(got)
	}
}

func TestPrefixID(t *testing.T) {
	for in, want := range map[string]string{"10.1.2.3/8": "10.0.0.0/8", "::ffff:1.2.3.4/128": "1.2.3.4", "2001:db8::/32": "2001:db8::/32"} {
		if id, ok := PrefixID(netip.MustParsePrefix(in)); !ok || id.Value != want || id.Validate() != nil {
			t.Errorf("%s: %v %v", in, id, ok)
		}
	}
	for _, p := range []netip.Prefix{{}, netip.PrefixFrom(netip.MustParseAddr("::ffff:1.2.3.4"), 64)} {
		if id, ok := PrefixID(p); ok {
			t.Errorf("%v: %v", p, id)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":                            `""`,
		"a\"b\n\x1b[2J":               `"a\"b\n\x1b[2J"`,
		"a\u202eb\u200d":              `"a\u202eb\u200d"`,
		"é":                           `"é"`,
		"\xff":                        `"\xff"`,
		strings.Repeat("a", 63) + "é": `"` + strings.Repeat("a", 63) + `"… (65 bytes)`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%q) = %s, want %s", in, got, want)
		}
	}
}

// FuzzParseID: what is accepted is canonical (reading it again changes nothing), covers the addresses that were
// typed, and two texts are one client exactly when their identifiers are equal; what is refused says so.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{"1.1.1.1", "10.0.0.1/8", "::ffff:1.2.3.0/120", "2001:db8::/32", "fe80::1%eth0", "010.0.0.1", "::/0", "a b", "\xff"} {
		f.Add(uint8(KindIP), "", s)
		f.Add(uint8(KindCookie), s, s)
		f.Add(uint8(KindUsername), "", s)
	}
	f.Fuzz(func(t *testing.T, kind uint8, name, value string) {
		id, _, err := ParseID(Kind(kind), name, value)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || id != (ID{}) || !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\n\x1b\u202e") {
				t.Fatalf("refusal %q with %v", err, id)
			}
			return
		}
		again, note, err := ParseID(id.Kind, id.Name, id.Value)
		if err != nil || again != id || id.Kind == KindIP && note != "" {
			t.Fatalf("%#v read again: %#v, note %q, error %v", id, again, note, err)
		}
		if err := id.Validate(); err != nil {
			t.Fatal(err)
		}
		p, ok := id.Prefix()
		if ok != (id.Kind == KindIP) {
			t.Fatalf("Prefix of %v: %v %v", id, p, ok)
		}
		if id.Kind != KindIP {
			if id.Value != value || id.Name != name {
				t.Fatalf("%q %q became %v", name, value, id)
			}
			return
		}
		typed, err := netip.ParsePrefix(value)
		if err != nil {
			a := netip.MustParseAddr(value)
			typed = netip.PrefixFrom(a, a.BitLen())
		}
		bits := typed.Bits()
		if typed.Addr().Is4In6() {
			bits -= 96
		}
		if want := netip.PrefixFrom(typed.Addr().Unmap(), bits).Masked(); p != want {
			t.Fatalf("%s became %v, want %v", value, p, want)
		}
		if other, ok := PrefixID(typed); !ok || other != id {
			t.Fatalf("%v and %v are one client", other, id)
		}
	})
}
