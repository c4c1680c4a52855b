package format_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/format"
)

// read reads a list to its end: one line of text an entry or error.
func read(t testing.TB, text string, f format.Format) (format.Format, []string) {
	t.Helper()
	r, err := format.Open(strings.NewReader(text), f)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []string
	for item, err := range r.Items() {
		var at *format.Error
		switch {
		case errors.As(err, &at):
			out = append(out, "! "+err.Error())
			continue
		case err != nil:
			t.Fatalf("%T: %v", err, err)
		}
		line := fmt.Sprintf("%d %s", item.Line, item.ID)
		for _, part := range []struct{ name, text string }{{"reason", item.Reason}, {"comment", item.Comment}, {"by", item.By}, {"note", item.Note}} {
			if part.text != "" {
				line += " " + part.name + "=" + part.text
			}
		}
		if item.List != 0 {
			line += " " + item.List.String()
		}
		if item.Source != 0 {
			line += " " + item.Source.String()
		}
		if item.For != 0 {
			line += fmt.Sprintf(" for=%d", item.For)
		}
		if !item.Expires.IsZero() {
			line += " until=" + item.Expires.Format(time.RFC3339)
		}
		out = append(out, line)
	}
	return r.Format(), out
}

func TestReaders(t *testing.T) {
	for _, test := range []struct {
		name, text string
		format     format.Format
		want       []string
	}{
		{"plain", "# a list\n; another comment\n\n 1.1.1.1\r\n10.0.0.1/8 # ours\n2001:DB8::1 ; SBL1\nnot an address\n192.0.2.10-192.0.2.13\n::ffff:3.3.3.3", format.Plain, []string{
			"4 ip 1.1.1.1", "5 ip 10.0.0.0/8 note=10.0.0.1/8 has host bits set: 10.0.0.0/8 is listed", "6 ip 2001:db8::1",
			`! line 7: invalid ip "not an address": it is not an address; expected an IPv4 or IPv6 address or CIDR, such as 1.1.1.1, 10.0.0.0/8 or 2001:db8::/32`,
			"8 ip 192.0.2.10/31", "8 ip 192.0.2.12/31", "9 ip 3.3.3.3"}},
		{"plain ranges", "1.0.0.0 - 1.255.255.255\n2.0.0.9-2.0.0.8\n0.0.0.0-255.255.255.255\n::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n1.1.1.1-::1\n1.1.1.1-\n", format.Plain, []string{
			"1 ip 1.0.0.0/8", `! line 2: invalid range "2.0.0.9-2.0.0.8": it ends before it begins`, "3 ip 0.0.0.0/0", "4 ip ::/0",
			`! line 5: invalid range "1.1.1.1-::1": one address is IPv4, the other IPv6`,
			`! line 6: invalid range "1.1.1.1-": expected two addresses, such as 192.0.2.10-192.0.2.20`}},
		{"byte order mark", "\xef\xbb\xbf1.1.1.1\n", format.Plain, []string{"1 ip 1.1.1.1"}},
		{"nothing", "", format.Plain, nil},
		{"csv", "kind,name,value,reason,comment,expires\nip,,1.1.1.1,scan,\"a, b\",2030-01-02T03:04:05Z\n# a comment\ncookie,SID,x y,,,\nip,,1.1.1.1-1.1.1.2,,,\nip,,1.1.1.1\nip,,2.2.2.2,,,tomorrow\nip,,\"3.3.3.3,,,\n", format.CSV, []string{
			"2 ip 1.1.1.1 reason=scan comment=a, b until=2030-01-02T03:04:05Z", "4 cookie SID x y", "5 ip 1.1.1.1", "5 ip 1.1.1.2",
			"! line 6: invalid CSV: 3 fields, the header has 6", `! line 7: invalid time "tomorrow": expected one such as 2026-12-24T18:00:00Z`,
			`! line 8: invalid CSV: extraneous or missing " in quoted-field`}},
		{"csv of one column", "value\n1.1.1.1\n", format.CSV, []string{"2 ip 1.1.1.1"}},
		{"csv with its own columns", "IP,Reason\n1.1.1.1,scan\n", format.CSV, []string{"2 ip 1.1.1.1 reason=scan"}},
		{"json lines", `{"list":"blacklist","source":"decoy","type":"ip","name":"","value":"1.1.1.1","created":"2026-01-02T03:04:05Z","expires":"2030-01-01T00:00:00Z","reason":"r","comment":"c","by":"root"}` + "\n\n" +
			`{"type":"cookie","name":"SID","value":"x"}` + "\n" + `{"value":"1.2.3.4","speed":3}` + "\n" + `{"value":7}` + "\n" + `{"value":"2.2.2.2"}` + "\n{\n", format.JSON, []string{
			"1 ip 1.1.1.1 reason=r comment=c by=root blacklist decoy until=2030-01-01T00:00:00Z", "3 cookie SID x",
			`! line 4: invalid JSON: unknown field "speed"`, `! line 5: invalid JSON: cannot unmarshal number into Go struct field Element.value of type string`,
			"6 ip 2.2.2.2", "! line 8: invalid JSON: it ends in the middle"}},
		{"json array", "[\n{\"value\":\"1.1.1.1\"},\n{\"value\":\"2.2.2.2\"}\n]\n", format.JSON, []string{"2 ip 1.1.1.1", "3 ip 2.2.2.2"}},
		{"empty json array", "[]\n", format.JSON, nil},
		{"open json array", "[\n{\"value\":\"1.1.1.1\"}", format.JSON, []string{"2 ip 1.1.1.1", "! line 2: invalid JSON: it ends in the middle"}},
		{"ipset", "create bad hash:net family inet hashsize 1024 maxelem 65536 timeout 0 comment\nadd bad 1.1.1.1 timeout 3600 comment \"port scan\"\nadd bad 10.0.0.0/8\nadd bad 1.1.1.1,tcp:80\nadd bad 10.1.0.0/16 nomatch\nadd bad 2.2.2.2 packets 1 bytes 2\nadd bad 3.3.3.3 comment \"open\nbad\n", format.IPSet, []string{
			"2 ip 1.1.1.1 comment=port scan for=3600", "3 ip 10.0.0.0/8",
			`! line 4: invalid ip "1.1.1.1,tcp:80": it is not an address; expected an IPv4 or IPv6 address or CIDR, such as 1.1.1.1, 10.0.0.0/8 or 2001:db8::/32`,
			`! line 5: invalid ipset: "10.1.0.0/16" is an exception (nomatch): add it to the whitelist`, "6 ip 2.2.2.2",
			"! line 7: invalid ipset: a quote is not closed", `! line 8: invalid ipset: "bad": expected create or add`}},
		{"nft listing", "table inet filter {\n\tset bad { # bad ones\n\t\ttype ipv4_addr\n\t\tflags interval,timeout\n\t\telements = { 1.1.1.1, 10.0.0.0/8 timeout 1d2h expires 30m500ms,\n\t\t\t     192.0.2.10-192.0.2.11 comment \"a, b\", 2.2.2.2 counter packets 0 bytes 0,\n22 }\n\t}\n\tchain c { tcp dport { 22, 80 } drop; }\n}\n", format.NFT, []string{
			"5 ip 1.1.1.1", "5 ip 10.0.0.0/8 for=1801", "6 ip 192.0.2.10/31 comment=a, b", "6 ip 2.2.2.2",
			`! line 7: invalid ip "22": it is not an address; expected an IPv4 or IPv6 address or CIDR, such as 1.1.1.1, 10.0.0.0/8 or 2001:db8::/32`}},
		{"nft commands", "add table inet f\nadd element inet f bad { 1.1.1.1 , 2001:db8::/32 timeout 90s : drop }\nadd element inet f bad { 3.3.3.3", format.NFT, []string{
			"2 ip 1.1.1.1", `! line 2: invalid nft element "2001:db8::/32": ":": not known`, "! line 3: invalid nft: the elements have no end"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, got := read(t, test.text, "")
			if f != test.format {
				t.Errorf("read as %s, want %s", f, test.format)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompressed(t *testing.T) {
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100_000 {
		fmt.Fprintf(g, "10.%d.%d.%d\n", i>>16, i>>8&255, i&255)
		fmt.Fprintf(z, "10.%d.%d.%d\n", i>>16, i>>8&255, i&255)
	}
	if err := errors.Join(g.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"gzip": gz.String(), "zstd": zs.String()} {
		if _, got := read(t, text, ""); len(got) != 100_000 || got[99_999] != "100000 ip 10.1.134.159" {
			t.Errorf("%s: %d entries", name, len(got))
		}
		if _, got := read(t, text[:len(text)/2], ""); len(got) == 0 || !strings.HasPrefix(got[len(got)-1], "! line ") {
			t.Errorf("%s cut in half: %d entries and no error", name, len(got))
		}
	}
}

// TestLongLine: a line without end costs no memory without end.
func TestLongLine(t *testing.T) {
	for _, f := range []format.Format{format.Plain, format.IPSet, format.NFT} {
		if _, got := read(t, strings.Repeat("x", 3<<20), f); f != format.NFT && (len(got) != 1 || !strings.Contains(got[0], "bytes")) {
			t.Errorf("%s: %.200q", f, got)
		}
	}
}

// entries draws what a list can hold.
func entries(t *rapid.T) []lists.Entry {
	text := rapid.StringMatching(`[ -~äß,;"#']{0,20}`)
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) lists.Entry {
		e := lists.Entry{Created: base, Reason: text.Draw(t, "reason"), Comment: text.Draw(t, "comment"), By: text.Draw(t, "by")}
		e.List = rapid.SampledFrom([]lists.List{lists.Whitelist, lists.Blacklist}).Draw(t, "list")
		e.Source = lists.Manual
		if e.List == lists.Blacklist {
			e.Source = rapid.SampledFrom(lists.Sources()).Draw(t, "source")
		}
		if rapid.Bool().Draw(t, "ends") {
			e.Expires = base.Add(time.Duration(rapid.IntRange(1, 1e9).Draw(t, "seconds")) * time.Second)
		}
		e.ID = lists.ID{Kind: rapid.SampledFrom([]lists.Kind{lists.KindIP, lists.KindIP, lists.KindCookie, lists.KindToken, lists.KindUsername}).Draw(t, "kind")}
		switch e.ID.Kind {
		case lists.KindIP:
			b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
			a := netip.AddrFrom16([16]byte(b))
			if b[0]&1 == 0 {
				a = netip.AddrFrom4([4]byte(b[12:]))
			}
			e.ID, _ = lists.PrefixID(netip.PrefixFrom(a, rapid.IntRange(1, a.BitLen()).Draw(t, "bits")))
			if e.ID.Kind == 0 {
				e.ID = lists.ID{Kind: lists.KindIP, Value: "1.1.1.1"}
			}
		case lists.KindCookie:
			e.ID.Name, e.ID.Value = rapid.StringMatching(`[A-Za-z#"]{1,9}`).Draw(t, "name"), "v"+text.Draw(t, "value")
		default:
			e.ID.Value = "v" + text.Draw(t, "value")
		}
		return e
	}), 0, 20).Draw(t, "entries")
}

// TestRoundTrip: what is written is read again: all of it from JSON and CSV, addresses, ends and most comments from the
// others.
func TestRoundTrip(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		all := entries(t)
		for _, f := range format.Formats() {
			var text bytes.Buffer
			w, err := format.NewWriter(&text, f, now)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				if err := w.Write(e); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			want := wanted(all, f, now)
			if w.Skipped() != len(all)-len(want) {
				t.Fatalf("%s: %d entries skipped of %d, want %d written", f, w.Skipped(), len(all), len(want))
			}
			if len(all) > 0 && len(want) == 0 {
				continue
			}
			guess := f
			if len(want) > 0 {
				guess = "" // from the text
			}
			r, err := format.Open(&text, guess)
			if err != nil {
				t.Fatal(err)
			}
			var got []lists.Entry
			for item, err := range r.Items() {
				if err != nil {
					t.Fatalf("%s: %v", f, err)
				}
				if item.For > 0 {
					item.Expires = now.Add(time.Duration(item.For) * time.Second)
				}
				got = append(got, item.Entry)
			}
			r.Close()
			if r.Format() != f {
				t.Fatalf("%s was read as %s", f, r.Format())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", f, diff)
			}
		}
	})
}

// wanted is what a format keeps of the entries.
func wanted(all []lists.Entry, f format.Format, now time.Time) []lists.Entry {
	var want []lists.Entry
	for _, e := range all {
		if f == format.JSON || f == format.CSV {
			want = append(want, e)
			continue
		}
		if e.ID.Kind != lists.KindIP {
			continue
		}
		kept := lists.Entry{}
		kept.ID = e.ID
		if f != format.Plain {
			kept.Expires = e.Expires
			if kept.Comment = strings.ReplaceAll(e.Comment, `"`, "'"); len(kept.Comment) > 128 {
				kept.Comment = ""
			}
		}
		want = append(want, kept)
	}
	return want
}

// FuzzRead feeds every reader with anything: entries are valid, lines grow, and there is an end.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{"1.1.1.1\n2.2.2.2-3.3.3.3\n", "kind,value\nip,1.1.1.1\n", `[{"value":"1.1.1.1"}]`, "{\"value\":\"1.1.1.1\"}\n{",
		"create a hash:ip\nadd a 1.1.1.1 timeout 5 comment \"x\"\n", "elements = { 1.1.1.1 timeout 1d, ::/0 }", "\x1f\x8b\x08", "\x28\xb5\x2f\xfd"} {
		for i := range format.Formats() {
			f.Add(seed, i)
		}
	}
	f.Fuzz(func(t *testing.T, text string, which int) {
		formats := append(format.Formats(), "")
		r, err := format.Open(strings.NewReader(text), formats[uint(which)%uint(len(formats))])
		if err != nil {
			return
		}
		defer r.Close()
		line, last := 0, false
		for item, err := range r.Items() {
			var at *format.Error
			switch {
			case last:
				t.Fatal("there is something after the last error")
			case errors.As(err, &at):
				item.Line, last = at.Line, at.Last
			case err != nil:
				t.Fatalf("%T: %v", err, err)
			default:
				if err := item.ID.Validate(); err != nil {
					t.Fatal(err)
				}
			}
			if item.Line < 1 || item.Line < line || item.Line > strings.Count(text, "\n")+1 && !strings.HasPrefix(text, "\x1f\x8b") && !strings.HasPrefix(text, "\x28\xb5") {
				t.Fatalf("line %d after %d", item.Line, line)
			}
			line = item.Line
		}
	})
}
