package control

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

func testDecoder() decoder {
	return decoder{now: time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC), by: "admin"}
}

func TestDecode(t *testing.T) {
	key := func(l lists.List, s lists.Source, kind lists.Kind, name, value string) lists.Key {
		return lists.Key{List: l, Source: s, ID: lists.ID{Kind: kind, Name: name, Value: value}}
	}
	created := time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC)
	for _, tt := range []struct {
		name string
		op   Operation
		want lists.Operation
		note bool
	}{
		{"mapped address", Operation{Op: "add", List: "blacklist", Kind: "ip", Value: "::ffff:192.0.2.1"},
			lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{Key: key(lists.Blacklist, lists.Manual, lists.KindIP, "", "192.0.2.1"), Created: created, By: "admin"}}, false},
		{"host bits", Operation{Op: "delete", List: "whitelist", Kind: "ip", Value: "2001:DB8::1/32"},
			lists.Operation{Op: lists.OpDelete, List: lists.Whitelist, ID: lists.ID{Kind: lists.KindIP, Value: "2001:db8::/32"}}, true},
		{"for", Operation{Op: "add", List: "whitelist", Kind: "token", Value: "-p", For: 90, Reason: "r", Comment: "c"},
			lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{Key: key(lists.Whitelist, lists.Manual, lists.KindToken, "", "-p"),
				Created: created, Expires: time.Date(2026, 3, 4, 5, 7, 38, 0, time.UTC), Reason: "r", Comment: "c", By: "admin"}}, false},
		{"until", Operation{Op: "add", List: "blacklist", Kind: "api_key", Name: "K", Value: "v", Until: "2026-03-04T08:00:00+02:00"},
			lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{Key: key(lists.Blacklist, lists.Manual, lists.KindAPIKey, "K", "v"),
				Created: created, Expires: time.Date(2026, 3, 4, 6, 0, 0, 0, time.UTC), By: "admin"}}, false},
		{"one source", Operation{Op: "delete", List: "blacklist", Kind: "username", Value: "your name", Source: "manual"},
			lists.Operation{Op: lists.OpDeleteKey, Entry: lists.Entry{Key: key(lists.Blacklist, lists.Manual, lists.KindUsername, "", "your name")}}, false},
		{"clear", Operation{Op: "clear", List: "blacklist"}, lists.Operation{Op: lists.OpClear, List: lists.Blacklist}, false},
		{"clear sources", Operation{Op: "clear_sources", List: "blacklist", Sources: []string{"decoy", "missing_token"}},
			lists.Operation{Op: lists.OpClearSources, List: lists.Blacklist, Sources: []lists.Source{lists.Decoy, lists.MissingToken}}, false},
	} {
		got, notes, err := testDecoder().batch([]Operation{tt.op})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if d := cmp.Diff([]lists.Operation{tt.want}, got); d != "" || (len(notes) > 0) != tt.note {
			t.Errorf("%s: notes %q, (-want +got):\n%s", tt.name, notes, d)
		}
	}
}

func TestDecodeSettings(t *testing.T) {
	for name, want := range map[string]lists.Settings{
		"firewall": {Firewall: true}, "abs": {ABS: true}, "abs_attack": {ABSAttack: true},
		"ase_detected_attack": {ASEDetectedAttack: true}, "audit": {Audit: true},
	} {
		got, _, err := testDecoder().batch([]Operation{{Op: "set", Setting: name, To: "enabled"}, {Op: "set", Setting: name, To: "disabled"}})
		if err != nil {
			t.Fatal(err)
		}
		if on := got[0].Settings(lists.Settings{}); on != want {
			t.Errorf("enable %s: %+v", name, on)
		}
		if off := got[1].Settings(want); off != (lists.Settings{}) {
			t.Errorf("disable %s: %+v", name, off)
		}
	}
	for _, level := range []string{"debug", "info", "warn", "error"} {
		got, _, err := testDecoder().batch([]Operation{{Op: "set", Setting: "log_level", To: level}})
		if err != nil || got[0].Settings(lists.Settings{Firewall: true}) != (lists.Settings{Firewall: true, LogLevel: level}) {
			t.Errorf("log level %s: %v", level, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	add := func(change func(*Operation)) Operation {
		o := Operation{Op: "add", List: "blacklist", Kind: "token", Value: "v"}
		change(&o)
		return o
	}
	for _, tt := range []struct {
		op   Operation
		want string
	}{
		{Operation{}, "op"},
		{Operation{Op: "drop"}, `"drop"`},
		{add(func(o *Operation) { o.List = "graylist" }), `"graylist"`},
		{add(func(o *Operation) { o.List = "" }), "list"},
		{add(func(o *Operation) { o.Kind = "" }), "kind"},
		{add(func(o *Operation) { o.Value = "" }), "token"},
		{add(func(o *Operation) { o.Name = "n" }), "name"},
		{add(func(o *Operation) { o.Kind = "cookie" }), "name"},
		{add(func(o *Operation) { o.Value = "a\nb" }), "control"},
		{add(func(o *Operation) { o.Value = "a\ufffdb" }), "not valid UTF-8"},
		{add(func(o *Operation) { o.Value = "a\xffb" }), "not valid UTF-8"},
		{add(func(o *Operation) { o.Value = strings.Repeat("v", lists.MaxValue+1) }), "8193 bytes"},
		{add(func(o *Operation) { o.For = -1 }), "for -1"},
		{add(func(o *Operation) { o.For = 1 << 62 }), "for 46"},
		{add(func(o *Operation) { o.For, o.Until = 1, "2027-01-01T00:00:00Z" }), "both"},
		{add(func(o *Operation) { o.Until = "2020-01-01T00:00:00Z" }), "future"},
		{add(func(o *Operation) { o.Until = "2200-01-01T00:00:00Z" }), "100 years"},
		{add(func(o *Operation) { o.Until = "tomorrow" }), `"tomorrow"`},
		{add(func(o *Operation) { o.Reason = strings.Repeat("r", lists.MaxText+1) }), "reason has 1025 bytes"},
		{add(func(o *Operation) { o.Comment = "\x1b[2J" }), "comment"},
		{add(func(o *Operation) { o.Comment = "\u202egnp" }), "comment"},
		{add(func(o *Operation) { o.Source = "friend" }), `"friend"`},
		{add(func(o *Operation) { o.Source = "decoy" }), "root"},
		{add(func(o *Operation) { o.List, o.Source = "whitelist", "decoy" }), "manual"},
		{add(func(o *Operation) { o.Setting = "firewall" }), `"setting"`},
		{add(func(o *Operation) { o.Sources = []string{"decoy"} }), `"sources"`},
		{Operation{Op: "delete", List: "blacklist", Kind: "token", Value: "v", Reason: "r"}, `"reason"`},
		{Operation{Op: "delete", List: "blacklist", Kind: "token", Value: "v", For: 5}, `"for"`},
		{Operation{Op: "clear", List: "blacklist", Kind: "ip"}, `"kind"`},
		{Operation{Op: "clear"}, "list"},
		{Operation{Op: "clear_sources", List: "blacklist"}, "no sources"},
		{Operation{Op: "clear_sources", List: "blacklist", Sources: []string{""}}, "source"},
		{Operation{Op: "set", Setting: "firewall", To: "on"}, `"on"`},
		{Operation{Op: "set", Setting: "firewall"}, "enabled or disabled"},
		{Operation{Op: "set", Setting: "log_level", To: "enabled"}, "debug, info, warn or error"},
		{Operation{Op: "set", Setting: "moat", To: "enabled"}, `"moat"`},
		{Operation{Op: "set", Setting: "audit", To: "enabled", List: "blacklist"}, `"list"`},
	} {
		fine := Operation{Op: "clear", List: "blacklist"}
		for _, batch := range [][]Operation{{tt.op}, {fine, tt.op, fine}} {
			_, _, err := testDecoder().batch(batch)
			var e *Error
			if !errors.As(err, &e) || (e.Code != CodeInvalid && e.Code != CodeForbidden) || !strings.Contains(e.Message, tt.want) {
				t.Errorf("%+v: %v; want %q", tt.op, err, tt.want)
				continue
			}
			if named := strings.HasPrefix(e.Message, "operation 2 of 3: "); named != (len(batch) > 1) {
				t.Errorf("in a batch of %d: %q", len(batch), e.Message)
			}
			if strings.ContainsAny(e.Message, "\n\x1b\u202e") || len(e.Message) > 600 {
				t.Errorf("message is not safe to show: %q", e.Message)
			}
		}
	}
	for _, n := range []int{0, MaxOps + 1} {
		if _, _, err := testDecoder().batch(make([]Operation, n)); err == nil {
			t.Errorf("a batch of %d was taken", n)
		}
	}
}

// FuzzDecode: whatever comes in, what goes on is canonical, bounded and means what was sent.
func FuzzDecode(f *testing.F) {
	for _, o := range []Operation{
		{Op: "add", List: "blacklist", Kind: "ip", Value: "10.0.0.1/8", For: 60},
		{Op: "add", List: "whitelist", Kind: "cookie", Name: "a", Value: "b", Until: "2027-01-01T00:00:00Z", Reason: "r"},
		{Op: "delete", List: "blacklist", Kind: "username", Value: "your name", Source: "decoy"},
		{Op: "clear_sources", List: "blacklist", Sources: []string{"decoy"}},
		{Op: "set", Setting: "log_level", To: "debug"},
	} {
		b, _ := json.Marshal([]Operation{o})
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, root bool) {
		var ops []Operation
		if strictJSON(data, &ops) != nil {
			return
		}
		d := testDecoder()
		d.root = root
		got, _, err := d.batch(ops)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Message == "" || !utf8.ValidString(e.Message) {
				t.Fatalf("error %#v", err)
			}
			return
		}
		for i, op := range got {
			if op.Op != lists.OpAdd {
				continue
			}
			e := op.Entry
			if again, note, err := lists.ParseID(e.ID.Kind, e.ID.Name, e.ID.Value); err != nil || again != e.ID || (note != "" && e.ID.Kind == lists.KindIP) {
				t.Fatalf("%+v is not canonical: %v, %v", e.ID, again, err)
			}
			if e.ID.Kind != lists.KindIP && (e.ID.Value != ops[i].Value || e.ID.Name != ops[i].Name) {
				t.Fatalf("%+v is not what was sent: %+v", e.ID, ops[i])
			}
			if e.Source != lists.Manual && (!root || e.List == lists.Whitelist) {
				t.Fatalf("source %s for root %v on the %s", e.Source, root, e.List)
			}
			if !e.Expires.IsZero() && (!e.Expires.After(d.now) || e.Expires.After(d.now.Add(lists.MaxFor+time.Second))) {
				t.Fatalf("ends at %v", e.Expires)
			}
		}
	})
}

func TestParseHash(t *testing.T) {
	good := hashPassword("secret")
	h, err := parseHash(good)
	if err != nil || !h.matches("secret") || h.matches("secret ") || h.matches("") {
		t.Fatalf("%s: %v", good, err)
	}
	if hashPassword("secret") == good {
		t.Error("two hashes have the same salt")
	}
	for _, bad := range []string{
		"", "$argon2id$", good[1:], strings.Replace(good, "v=19", "v=16", 1), strings.Replace(good, "argon2id", "argon2i", 1),
		strings.Replace(good, "m=19456", "m=4294967295", 1), strings.Replace(good, "t=2", "t=0", 1), strings.Replace(good, "p=1", "p=0", 1),
		strings.Replace(good, "p=1", "p=1,x=1", 1), good + "=", good + "$x", good[:len(good)-30],
	} {
		if _, err := parseHash(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
