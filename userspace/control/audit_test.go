package control

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// testClock is a clock that stands still until it is set.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newTestClock() *testClock { return &testClock{now: time.Date(2026, 3, 4, 23, 0, 0, 0, time.UTC)} }

func testAudit(t *testing.T, dir string, now func() time.Time) *auditLog {
	t.Helper()
	a := openAudit(dir, now, discard())
	if a.unopen != nil {
		t.Fatal(a.unopen)
	}
	t.Cleanup(func() { a.close() })
	return a
}

func numbered(n int) []auditLine {
	return []auditLine{{via: "cli", action: "add_blacklist", resources: fmt.Sprintf("n=%d", n)}}
}

func writeLines(t *testing.T, a *auditLog, from, n int) {
	t.Helper()
	for i := range n {
		if err := a.write(numbered(from + i)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantHeld fails unless the whole chain holds with that many lines.
func wantHeld(t *testing.T, a *auditLog, lines int) {
	t.Helper()
	if held, _, err := a.verify(context.Background()); err != nil || held != lines {
		t.Fatalf("%d lines hold, %v; want %d", held, err, lines)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// auditColumns is what scripts for the original parse.
var auditColumns = regexp.MustCompile(`^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2} \| (cli|rest_api|cluster) \| [a-z_]+ \| [ -{}~]+$`)

func TestAuditLines(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	a := testAudit(t, dir, clock.Now)
	r := auditRecord{caller: Caller{User: "admin", Via: "cli", UID: 1000, PID: 7}, request: "r1"}
	decode := decoder{now: clock.Now(), by: "admin", root: true}
	prefix := "request=r1 user=admin uid=1000 pid=7 "
	mark := func(kind lists.Kind, name, value string) string {
		return a.mask(lists.ID{Kind: kind, Name: name, Value: value})
	}
	for _, tt := range []struct {
		op   Operation
		want string // from the action on
	}{
		{Operation{Op: "add", List: "blacklist", Kind: "ip", Value: "10.1.2.3/8", For: 60},
			"add_blacklist | " + prefix + "ip=10.0.0.0/8 source=manual expires=2026-03-04T23:01:00Z outcome=begun"},
		{Operation{Op: "add", List: "whitelist", Kind: "username", Value: "your name"},
			"add_whitelist | " + prefix + `username="your name" source=manual expires=never outcome=begun`},
		{Operation{Op: "add", List: "blacklist", Kind: "cookie", Name: "JSESSIONID", Value: "secret"},
			"add_blacklist | " + prefix + "name=JSESSIONID cookie=" + mark(lists.KindCookie, "JSESSIONID", "secret") + " source=manual expires=never outcome=begun"},
		{Operation{Op: "delete", List: "blacklist", Kind: "token", Value: "secret"},
			"delete_blacklist | " + prefix + "token=" + mark(lists.KindToken, "", "secret") + " outcome=begun"},
		{Operation{Op: "delete", List: "blacklist", Kind: "api_key", Name: "X|K", Value: "secret", Source: "decoy"},
			"delete_blacklist | " + prefix + `name="X\x7cK" api_key=` + mark(lists.KindAPIKey, "X|K", "secret") + " source=decoy outcome=begun"},
		{Operation{Op: "clear", List: "whitelist"}, "clear_whitelist | " + prefix + "outcome=begun"},
		{Operation{Op: "clear_sources", List: "blacklist", Sources: []string{"decoy", "invalid_method"}},
			"clear_blacklist | " + prefix + "sources=decoy,invalid_method outcome=begun"},
		{Operation{Op: "set", Setting: "firewall", To: "enabled"}, "enable_firewall | " + prefix + "outcome=begun"},
		{Operation{Op: "set", Setting: "abs_attack", To: "disabled"}, "disable_abs_attack | " + prefix + "outcome=begun"},
		{Operation{Op: "set", Setting: "log_level", To: "debug"}, "log_level | " + prefix + "level=debug outcome=begun"},
	} {
		ops, _, err := decode.batch([]Operation{tt.op})
		if err != nil {
			t.Fatal(err)
		}
		lines := a.operations(r, ops, []Operation{tt.op}, true)
		if err := a.write(lines); err != nil {
			t.Fatal(err)
		}
		all := strings.Split(strings.TrimSuffix(readFile(t, filepath.Join(dir, auditFile)), "\n"), "\n")
		got := all[len(all)-1]
		if want := "2026-03-04 23:00:00 | cli | " + tt.want; got != want || !auditColumns.MatchString(got) {
			t.Errorf("line\n%s\nwant\n%s", got, want)
		}
		if strings.Contains(got, "secret") {
			t.Errorf("a secret is in the line %s", got)
		}
		off := a.operations(r, ops, []Operation{tt.op}, false)
		if len(off) != 0 {
			t.Errorf("with the audit off: %v", off)
		}
	}
	for _, to := range []string{"enabled", "disabled"} {
		op := []Operation{{Op: "set", Setting: "audit", To: to}}
		ops, _, err := decode.batch(op)
		if err != nil {
			t.Fatal(err)
		}
		if off := a.operations(r, ops, op, false); len(off) != 1 || off[0].action != strings.TrimSuffix(to, "d")+"_audit" {
			t.Errorf("audit %s with the audit off: %v", to, off)
		}
	}
	if a.mask(lists.ID{Kind: lists.KindToken, Value: "a"}) == a.mask(lists.ID{Kind: lists.KindToken, Value: "b"}) {
		t.Error("masks of two secrets are the same")
	}
	other := testAudit(t, t.TempDir(), clock.Now)
	if id := (lists.ID{Kind: lists.KindToken, Value: "a"}); a.mask(id) == other.mask(id) {
		t.Error("the mask of a secret is the same on another node: it can be guessed")
	}
}

// TestAuditCannotBeForged writes hostile text in every place that outside text can come to.
func TestAuditCannotBeForged(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	a := testAudit(t, dir, clock.Now)
	hostile := []string{
		"x\n2026-01-01 00:00:00 | cli | clear_blacklist | user=root", "a | b", "\r\x1b[2J", "\u202e\u2066evil\u2069", "a outcome=done",
		`"quoted"`, `back\slash`, "\x00", "\u2028", "\xff\xfe", "", strings.Repeat("|", 10_000), "ünï", "=", " ",
	}
	var want int
	for _, h := range hostile {
		r := auditRecord{caller: Caller{User: h, Via: "cli"}, request: "r"}
		e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindUsername, Name: h, Value: h}}, Reason: h, Comment: h}
		lines := a.operations(r, []lists.Operation{{Op: lists.OpAdd, Entry: e}}, []Operation{{}}, true)
		lines = append(lines, a.passwordChange(r, h), a.failedLogin(Caller{User: h, Via: via}, 3), a.failed(r, "add_blacklist", 2, invalid("%s", h)))
		if err := a.write(lines); err != nil {
			t.Fatal(err)
		}
		want += len(lines)
	}
	got := strings.Split(strings.TrimSuffix(readFile(t, filepath.Join(dir, auditFile)), "\n"), "\n")
	if len(got) != want {
		t.Fatalf("%d lines, want %d", len(got), want)
	}
	for _, line := range got {
		if !auditColumns.MatchString(line) || strings.Count(line, "|") != 3 || len(line) > 12_000 {
			t.Errorf("forged line: %q", line)
		}
	}
	wantHeld(t, a, want)
}

func TestAuditRotation(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	a := testAudit(t, dir, clock.Now)
	writeLines(t, a, 0, 3)
	clock.add(2 * time.Hour)
	writeLines(t, a, 3, 2)
	clock.add(-2 * time.Hour) // a clock that steps back rotates nothing
	writeLines(t, a, 5, 1)
	clock.add(26 * time.Hour)
	writeLines(t, a, 6, 4)
	wantHeld(t, a, 10)
	for name, lines := range map[string]int{auditFile + ".2026-03-04": 3, auditFile + ".2026-03-05": 3, auditFile: 4} {
		if n := strings.Count(readFile(t, filepath.Join(dir, name)), "\n"); n != lines {
			t.Errorf("%s has %d lines, want %d", name, n, lines)
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	b := testAudit(t, dir, clock.Now)
	writeLines(t, b, 10, 1)
	wantHeld(t, b, 11)

	// An archive without its oldest days holds; one with a day missing in between does not.
	aside := func(suffix string) {
		for _, f := range []string{auditFile, chainFile} {
			if err := os.Rename(filepath.Join(dir, f+suffix), filepath.Join(dir, "old-"+f+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	aside(".2026-03-05")
	if _, _, err := b.verify(context.Background()); err == nil || !strings.Contains(err.Error(), "files between line 3 and line 7 are missing") {
		t.Errorf("a day is missing: %v", err)
	}
	aside(".2026-03-04")
	wantHeld(t, b, 5)
}

// TestInterruptedRotation: a crash between the two renames is completed, not taken for tampering.
func TestInterruptedRotation(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	a := testAudit(t, dir, clock.Now)
	writeLines(t, a, 0, 3)
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, chainFile), filepath.Join(dir, chainFile+".2026-03-04")); err != nil {
		t.Fatal(err)
	}
	clock.add(24 * time.Hour)
	b := testAudit(t, dir, clock.Now)
	writeLines(t, b, 3, 2)
	wantHeld(t, b, 5)
	if n := strings.Count(readFile(t, filepath.Join(dir, auditFile+".2026-03-04")), "\n"); n != 3 {
		t.Errorf("the rotated log has %d lines", n)
	}
}
