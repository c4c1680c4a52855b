package control_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

// collect reads a stream to its end.
func collect[T any](t *testing.T, seq func(func(T, error) bool)) []T {
	t.Helper()
	var out []T
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// wantError fails unless err is an *Error with that code and a message that is one line.
func wantError(t *testing.T, err error, code control.Code) *control.Error {
	t.Helper()
	var e *control.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T); want an *Error with code %s", err, err, code)
	}
	if e.Code != code || e.Message == "" {
		t.Fatalf("error %#v; want code %s", e, code)
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	needRoot(t) // for the source abs_detected
	ctx := context.Background()
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{})

	r, err := c.Apply(ctx, []control.Operation{
		{Op: "add", List: "blacklist", Kind: "ip", Value: "10.0.0.1/8", Reason: "scan", Comment: "ticket 7", For: 3600},
		{Op: "add", List: "blacklist", Kind: "cookie", Name: "JSESSIONID", Value: "-a b;ü"},
		{Op: "add", List: "blacklist", Kind: "username", Value: "your name", Source: "abs_detected"},
		{Op: "add", List: "whitelist", Kind: "api_key", Name: "X-API-KEY", Value: "key_1.4"},
		{Op: "add", List: "whitelist", Kind: "token", Value: "--token"},
		{Op: "add", List: "whitelist", Kind: "token", Value: "--token"},
		{Op: "delete", List: "whitelist", Kind: "ip", Value: "1.1.1.1"},
		{Op: "set", Setting: "abs_attack", To: "enabled"},
		{Op: "set", Setting: "log_level", To: "debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := control.Reply{
		Result: lists.Result{
			Generation: 2,
			Outcomes: []lists.Outcome{lists.Added, lists.Added, lists.Added, lists.Added, lists.Added, lists.Unchanged,
				lists.NotFound, lists.Changed, lists.Changed},
			Counts: []int{1, 1, 1, 1, 1, 0, 0, 0, 0},
		},
		Notes: r.Notes,
	}
	if d := cmp.Diff(want, r); d != "" || len(r.Notes) != 1 {
		t.Fatalf("reply (-want +got):\n%s\nnotes %q", d, r.Notes)
	}

	for _, tt := range []struct {
		list    lists.List
		sources []lists.Source
		want    []string
	}{
		{lists.Blacklist, nil, []string{"ip 10.0.0.0/8", "cookie JSESSIONID -a b;ü", "username your name"}},
		{lists.Blacklist, []lists.Source{lists.ABS}, []string{"username your name"}},
		{lists.Blacklist, []lists.Source{lists.Manual, lists.ABS}, []string{"ip 10.0.0.0/8", "cookie JSESSIONID -a b;ü", "username your name"}},
		{lists.Blacklist, []lists.Source{lists.Decoy}, nil},
		{lists.Whitelist, nil, []string{"api_key X-API-KEY key_1.4", "token --token"}},
	} {
		var got []string
		for _, e := range collect(t, c.List(ctx, tt.list, tt.sources...)) {
			got = append(got, e.ID.String())
			if stored, ok := backend.Snapshot().Get(e.Key); !ok || !cmp.Equal(stored, e) {
				t.Errorf("entry came over the wire as %+v; the backend has %+v", e, stored)
			}
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("list %s %v (-want +got):\n%s", tt.list, tt.sources, d)
		}
	}

	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Settings.ABSAttack || st.Settings.LogLevel != "debug" || st.Entries["blacklist"] != 3 || st.Generation.Store != 2 {
		t.Errorf("status %+v", st)
	}
	if v, err := c.Version(ctx); v != "test" || err != nil {
		t.Errorf("version %q, %v", v, err)
	}
	if m, err := c.AuthMethod(ctx); m != "ase::db" || err != nil {
		t.Errorf("auth method %q, %v", m, err)
	}
	events := collect(t, c.History(ctx, 2))
	if d := cmp.Diff(collect(t, backend.History(ctx, 2)), events); d != "" || len(events) != 2 {
		t.Errorf("history (-want +got):\n%s", d)
	}
	if n, err := c.VerifyAudit(ctx); n != 9 || err != nil {
		t.Errorf("audit: %d lines, %v; want 9", n, err)
	}
}

// TestHistoryHidesSecrets: the history shows who has a secret the mark of it that the audit log has, the list shows it
// whole.
func TestHistoryHidesSecrets(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	dir := t.TempDir()
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	add := []control.Operation{
		{Op: "add", List: "blacklist", Kind: "cookie", Name: "SID", Value: "hush-1"},
		{Op: "add", List: "blacklist", Kind: "token", Value: "hush-2"},
		{Op: "add", List: "blacklist", Kind: "api_key", Name: "X-API-KEY", Value: "hush-3"},
		{Op: "add", List: "blacklist", Kind: "username", Value: "mallory"},
		{Op: "delete", List: "blacklist", Kind: "token", Value: "hush-2"},
	}
	for _, op := range add {
		if _, err := c.Apply(ctx, []control.Operation{op}); err != nil {
			t.Fatal(err)
		}
	}
	audit, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	events := collect(t, c.History(ctx, 0))
	if len(events) != len(add) {
		t.Fatalf("%d events", len(events))
	}
	for i, e := range events {
		entry, kind := e.After, add[len(add)-1-i].Kind
		if entry == nil {
			entry = e.Before
		}
		if entry.ID.Kind.String() != kind || entry.ID.Name != add[len(add)-1-i].Name {
			t.Errorf("event %d is of %s, want %s", i, entry.ID, kind)
		}
		if secret := kind != "username"; secret != strings.HasPrefix(entry.ID.Value, "**********#") || !strings.Contains(string(audit), kind+"="+entry.ID.Value) {
			t.Errorf("event %d says %s, the audit log\n%s", i, entry.ID, audit)
		}
	}
	if deleted := events[0].Before; deleted == nil || deleted.ID != events[3].After.ID {
		t.Errorf("the mark of a token differs: %+v, %+v", events[0].Before, events[3].After)
	}
	if got := collect(t, c.List(ctx, lists.Blacklist)); len(got) != 3 || got[0].ID.Value != "hush-1" {
		t.Errorf("the list shows %+v", got)
	}
}
