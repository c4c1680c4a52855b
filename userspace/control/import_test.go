package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

// sequence yields entries, and then an error if there is one.
func sequence(err error, entries ...control.ImportEntry) iter.Seq2[control.ImportEntry, error] {
	return func(yield func(control.ImportEntry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(control.ImportEntry{}, err)
		}
	}
}

func importEntry(l lists.List, src lists.Source, id lists.ID) control.ImportEntry {
	return control.ImportEntry{Entry: lists.Entry{Key: lists.Key{List: l, Source: src, ID: id}}}
}

func TestImport(t *testing.T) {
	needRoot(t) // for the source decoy
	ctx := context.Background()
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{})

	base := time.Now().UTC().Truncate(time.Second)
	kept := importEntry(lists.Blacklist, lists.Decoy, lists.ID{Kind: lists.KindCookie, Name: "SID", Value: `"x" ü`})
	kept.Created, kept.By, kept.Reason, kept.Comment, kept.Expires = base.Add(-time.Hour), "alice", "r", "c", base.Add(time.Hour)
	soon := importEntry(lists.Blacklist, lists.Manual, lists.ID{Kind: lists.KindIP, Value: "1.1.1.1"})
	soon.For = 3600
	plain := importEntry(lists.Whitelist, lists.Manual, lists.ID{Kind: lists.KindIP, Value: "2001:db8::/32"})
	all := []control.ImportEntry{kept, soon, plain, plain}
	for i := range 1000 {
		all = append(all, importEntry(lists.Blacklist, lists.Manual, lists.ID{Kind: lists.KindIP, Value: fmt.Sprintf("10.0.%d.%d", i>>8, i&255)}))
	}
	plan, err := c.Import(ctx, control.ImportOptions{DryRun: true}, sequence(nil, all...))
	if err != nil || plan.Added != 1003 || backend.Snapshot().Len(lists.Blacklist) != 0 {
		t.Fatalf("dry run: %+v, %v", plan, err)
	}
	r, err := c.Import(ctx, control.ImportOptions{AcceptRisk: []string{"x"}}, sequence(nil, all...))
	if want := (lists.Imported{Added: 1003, Unchanged: 1}); err != nil || r.Imported != want {
		t.Fatalf("%+v, %v", r, err)
	}
	requests := backend.Requests()
	if got := requests[len(requests)-1]; got.DryRun || len(got.AcceptRisk) != 1 || got.Batch.Via != "cli" || got.Batch.By != "root" {
		t.Errorf("request %+v", got)
	}
	got, _ := backend.Snapshot().Get(kept.Key)
	if diff := cmp.Diff(kept.Entry, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, _ := backend.Snapshot().Get(soon.Key); got.Expires.Before(base.Add(time.Hour)) || got.Expires.After(base.Add(time.Hour+time.Minute)) || got.By != "root" {
		t.Errorf("%+v", got)
	}
	if lines, err := c.VerifyAudit(ctx); err != nil || lines != 1 {
		t.Errorf("audit log has %d lines, %v", lines, err)
	}
}

// TestImportIsWholeOrNothing: what goes wrong on the way changes nothing, and the reason arrives.
func TestImportIsWholeOrNothing(t *testing.T) {
	ctx := context.Background()
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{})
	good := importEntry(lists.Blacklist, lists.Manual, lists.ID{Kind: lists.KindIP, Value: "1.1.1.1"})

	stop := errors.New("the file is bad")
	if _, err := c.Import(ctx, control.ImportOptions{}, sequence(stop, good)); !errors.Is(err, stop) {
		t.Errorf("an error of the sequence: %v", err)
	}
	bad := good
	bad.ID.Value = "1.1.1.300"
	many := []control.ImportEntry{good, bad}
	for range 100_000 { // more than the daemon reads before it finds the bad one
		many = append(many, good)
	}
	_, err := c.Import(ctx, control.ImportOptions{}, sequence(nil, many...))
	if e := wantError(t, err, control.CodeInvalid); !strings.HasPrefix(e.Message, "entry 2: ") {
		t.Error(e.Message)
	}
	late := good
	late.Expires = time.Unix(1, 0)
	_, err = c.Import(ctx, control.ImportOptions{}, sequence(nil, late))
	wantError(t, err, control.CodeInvalid)

	admin := &control.Client{Socket: c.Socket, User: "admin", Password: "admin"}
	decoy := importEntry(lists.Blacklist, lists.Decoy, good.ID)
	_, err = admin.Import(ctx, control.ImportOptions{}, sequence(nil, good, decoy))
	wantError(t, err, control.CodeForbidden)
	wrong := &control.Client{Socket: c.Socket, User: "admin", Password: "wrong"}
	_, err = wrong.Import(ctx, control.ImportOptions{}, sequence(errors.New("nothing is read before the login"), good))
	wantError(t, err, control.CodeForbidden)
	if n := backend.Snapshot().Len(lists.Blacklist); n != 0 {
		t.Errorf("%d entries", n)
	}
	by := good
	by.By, by.Created = "somebody else", time.Unix(1e9, 0)
	if _, err := admin.Import(ctx, control.ImportOptions{}, sequence(nil, by)); err != nil {
		t.Fatal(err)
	}
	if got, _ := backend.Snapshot().Get(good.Key); got.By != "admin" || got.Created.Unix() == 1e9 {
		t.Errorf("an admin spoke for somebody else: %+v", got)
	}
}

// TestImportLines sends lines as a client of another make would.
func TestImportLines(t *testing.T) {
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{})
	as := `{"as":{"list":"blacklist","source":"manual","kind":"","value":"","created":"0001-01-01T00:00:00Z"}}` + "\n"
	post := func(body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, "http://portcullis/v1/import", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", "admin")
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
		}}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	for body, want := range map[string]string{
		"":                   "import was cut after 0 entries",
		as + "\"1.1.1.1\"\n": "import was cut after 1 entries",
		as + "\"1.1.1.1\"\n{\"end\":true,\"count\":2}\n": "import has 1 entries instead of 2",
		"\"1.1.1.1\"\n":      "comes before what it is added as",
		as + "\"1.1.1.1\n":   "import was cut after 1 entries",
		"\n":                 "is not what an import is made of",
		"{}\n":               "an empty line",
		`{"speed":1}` + "\n": "unknown field",
		as + "\"" + strings.Repeat("1", 200<<10) + "\"\n":      "a line has more than",
		as + "\"\xff\"\n{\"end\":true}\n":                      "invalid ip",
		"{\"entry\":{\"value\":\"\xff\"}}\n":                   "not valid UTF-8",
		strings.Replace(as, "blacklist", "greylist", 1):        "invalid list",
		strings.Replace(as, `"kind"`, `"for":-1,"kind"`, 1):    "expected 1 to",
		as + "\"1.1.1.1\"\n{\"end\":true,\"count\":1}\nmore\n": "",
	} {
		code, text := post(body)
		if want == "" {
			want = `"added":1`
		} else if code != http.StatusBadRequest {
			t.Errorf("%.80q: status %d", body, code)
		}
		if !strings.Contains(text, want) {
			t.Errorf("%.80q: %s, want %q", body, text, want)
		}
	}
	if n := backend.Snapshot().Len(lists.Blacklist); n != 1 {
		t.Errorf("%d entries", n)
	}
}
