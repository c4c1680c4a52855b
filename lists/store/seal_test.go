package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

// hush is in every secret that these tests list, and must be in no file.
const hush = "hush-"

// entryOf is a valid entry. Its comment could be taken for the JSON of an address.
func entryOf(t *testing.T, l lists.List, src lists.Source, kind lists.Kind, name, value, reason string) lists.Entry {
	t.Helper()
	id, _, err := lists.ParseID(kind, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return lists.Entry{Key: lists.Key{List: l, Source: src, ID: id}, Reason: reason, Comment: `says "Kind":"ip" itself`,
		Expires: time.Date(2096, 1, 2, 3, 4, 5, 0, time.UTC)}
}

// secrets are batches with identifiers of every kind, by every way into the database: rows, chunks, chunks that become
// rows, events. testdata/version2.db.gz was made with them by the last version that did not seal.
func secrets(t *testing.T) (all []lists.Batch) {
	do := func(ops ...lists.Operation) { all = append(all, lists.Batch{Ops: ops, By: "alice", Via: "cli"}) }
	add := func(l lists.List, src lists.Source, kind lists.Kind, name, value, reason string) lists.Operation {
		return lists.Operation{Op: lists.OpAdd, Entry: entryOf(t, l, src, kind, name, value, reason)}
	}
	var mixed, addresses lists.Pack
	for i := range 300 {
		e := entryOf(t, lists.Blacklist, lists.ABS, lists.KindToken, "", fmt.Sprintf("hush-imported-%d", i), "feed")
		if i%3 == 0 {
			e.ID = lists.ID{Kind: lists.KindIP, Value: fmt.Sprintf("198.18.%d.%d", i/256, i%256)}
		}
		if err := mixed.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		if err := addresses.Add(entryOf(t, lists.Blacklist, lists.Manual, lists.KindIP, "", fmt.Sprintf("198.19.%d.%d", i/256, i%256), "")); err != nil {
			t.Fatal(err)
		}
	}
	do(lists.Operation{Op: lists.OpImport, Pack: &addresses})
	do(lists.Operation{Op: lists.OpImport, Pack: &mixed})
	for i := range 20 {
		n := fmt.Sprint(i)
		do(add(lists.Blacklist, lists.Manual, lists.KindCookie, "SID", "hush-cookie-"+n, "stolen"),
			add(lists.Blacklist, lists.Decoy, lists.KindCookie, "SID", "hush-cookie-"+n, ""),
			add(lists.Blacklist, lists.Manual, lists.KindAPIKey, "X-API-KEY", "hush-key-"+n, ""),
			add(lists.Whitelist, lists.Manual, lists.KindToken, "", "hush-token-"+n, ""),
			add(lists.Blacklist, lists.ABS, lists.KindUsername, "", "hush-user-"+n, "guesses"),
			add(lists.Blacklist, lists.Manual, lists.KindIP, "", "203.0.113."+n, "scans"))
	}
	for i := range 5 {
		do(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: lists.ID{Kind: lists.KindCookie, Name: "SID", Value: fmt.Sprint("hush-cookie-", i)}})
	}
	do(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: lists.ID{Kind: lists.KindToken, Value: "hush-imported-1"}})
	do(add(lists.Blacklist, lists.Manual, lists.KindCookie, "SID", "hush-cookie-7", "stolen twice"))
	return all
}

// filled is a store with these secrets.
func filled(t *testing.T, o Options) (*Store, string) {
	t.Helper()
	s, dir := open(t, o)
	for _, b := range secrets(t) {
		apply(t, s, b)
	}
	return s, dir
}

// undated is everything a store holds but the times of its making.
func undated(t *testing.T, s *Store) (entries []lists.Entry, events []lists.Event) {
	t.Helper()
	plain := func(e *lists.Entry) *lists.Entry {
		if e == nil {
			return nil
		}
		out := *e
		out.Created = time.Time{}
		return &out
	}
	for _, e := range state(s.Snapshot()) {
		entries = append(entries, *plain(&e))
	}
	for e, err := range s.History(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		e.Time, e.Before, e.After = time.Time{}, plain(e.Before), plain(e.After)
		events = append(events, e)
	}
	return entries, events
}

// leaks are the files below a directory that hold a secret.
func leaks(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(hush)) {
			found = append(found, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSealed: no secret is in any file, while the store runs and after it; and all of them are there again.
func TestSealed(t *testing.T) {
	s, dir := filled(t, Options{})
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	if found := leaks(t, dir); len(found) != 0 {
		t.Errorf("secrets are in %q", found)
	}
	entries, events := undated(t, s)
	closeStore(t, s)
	if found := leaks(t, dir); len(found) != 0 {
		t.Errorf("secrets are in %q", found)
	}
	s, _ = open(t, Options{Dir: dir})
	again, eventsAgain := undated(t, s)
	if d := cmp.Diff(entries, again); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(events, eventsAgain); d != "" || len(events) < 100 {
		t.Errorf("%d events: %s", len(events), d)
	}
	if info, err := os.Stat(filepath.Join(dir, "lists.key")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("key file: %v, %v", info, err)
	}
}

// putVersion2 puts a database of the last version that did not seal into a directory, and a copy of it.
func putVersion2(t *testing.T, dir string) {
	t.Helper()
	packed, err := os.Open("testdata/version2.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	old, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "snapshots"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"lists.db", "snapshots/lists-30.db"} {
		if err := os.WriteFile(filepath.Join(dir, path), old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUpgradeSeals opens a database of the version before, with a copy of it: nothing is lost, no secret is left.
func TestUpgradeSeals(t *testing.T) {
	dir := t.TempDir()
	putVersion2(t, dir)
	s, _ := open(t, Options{Dir: dir})
	fresh, _ := filled(t, Options{})
	entries, events := undated(t, s)
	want, wantEvents := undated(t, fresh)
	if d := cmp.Diff(want, entries); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(wantEvents, events); d != "" {
		t.Error(d)
	}
	if st := s.Status(); st.Degraded != "" || s.db.version != schemaVersion || s.Snapshot().Generation() != fresh.Snapshot().Generation() {
		t.Errorf("version %d, generation %d, degraded %q", s.db.version, s.Snapshot().Generation(), st.Degraded)
	}
	if found := leaks(t, dir); len(found) != 1 || found[0] != "lists-30.db" {
		t.Errorf("secrets are in %q", found)
	}
	if !s.copyDue() {
		t.Error("no sealed copy is due")
	}
	apply(t, s, adds(0, 1, lists.Manual)) // a copy of another generation
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	if found := leaks(t, dir); len(found) != 0 {
		t.Errorf("after a copy, secrets are in %q", found)
	}
	for _, b := range secrets(t)[2:] { // what was sealed is found, changed and deleted
		apply(t, s, b)
	}
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir})
	if st := s.Status(); st.Degraded != "" {
		t.Error(st.Degraded)
	}
}

// TestUpgradeWithoutKey: where no key file can be made, the lists are there as they are, and no change is taken.
func TestUpgradeWithoutKey(t *testing.T) {
	dir := t.TempDir()
	putVersion2(t, dir)
	s, _ := open(t, Options{Dir: dir, KeyFile: filepath.Join(dir, "nowhere", "lists.key")})
	fresh, _ := filled(t, Options{})
	entries, events := undated(t, s)
	want, wantEvents := undated(t, fresh)
	if d := cmp.Diff(want, entries) + cmp.Diff(wantEvents, events); d != "" {
		t.Error(d)
	}
	if st := s.Status(); !strings.Contains(st.LastError, "make key file") || s.db.version != 2 {
		t.Errorf("version %d, last error %q", s.db.version, st.LastError)
	}
	if _, err := s.Apply(context.Background(), adds(0, 1, lists.Manual)); !errors.Is(err, ErrNotDurable) {
		t.Errorf("a manual add: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "nowhere"), 0o700); err != nil {
		t.Fatal(err)
	}
	apply(t, s, adds(0, 1, lists.Manual))
	if s.db.version != schemaVersion {
		t.Errorf("version %d", s.db.version)
	}
}

// TestUpgradeOnFullDisk: where a sealed database finds no room, the lists are enforced as they are, and sealed later.
func TestUpgradeOnFullDisk(t *testing.T) {
	dir := smallDisk(t)
	putVersion2(t, dir)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	if info, err := os.Stat(ballast); err != nil || os.Truncate(ballast, info.Size()-64<<10) != nil { // for the files that SQLite makes
		t.Fatal(info, err)
	}
	s, _ := open(t, Options{Dir: dir})
	fresh, _ := filled(t, Options{})
	entries, events := undated(t, s)
	want, wantEvents := undated(t, fresh)
	if d := cmp.Diff(want, entries) + cmp.Diff(wantEvents, events); d != "" {
		t.Error(d)
	}
	if st := s.Status(); !strings.Contains(st.LastError, "full") || s.db.version != 2 {
		t.Errorf("version %d, last error %q", s.db.version, st.LastError)
	}
	if _, err := s.Apply(context.Background(), adds(0, 1, lists.Manual)); !errors.Is(err, ErrNotDurable) {
		t.Errorf("a manual add: %v", err)
	}
	apply(t, s, adds(0, 1, lists.Decoy))
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	eventually(t, "the database is sealed, and so is its copy", func() bool { return s.Status().Degraded == "" && len(leaks(t, dir)) == 0 })
	n := s.Snapshot().Len(lists.Blacklist)
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir})
	if got := s.Snapshot().Len(lists.Blacklist); got != n || s.db.version != schemaVersion || s.Status().LastError != "" {
		t.Errorf("%d entries of %d, version %d, %+v", got, n, s.db.version, s.Status())
	}
}

// TestKeyLost: without the right key the store does not open, says what to do, and leaves everything as it is.
func TestKeyLost(t *testing.T) {
	s, dir := filled(t, Options{})
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	want, _ := undated(t, s)
	closeStore(t, s)
	key := filepath.Join(dir, "lists.key")
	right, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string, raw []byte) {
		t.Helper()
		if err := os.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if raw != nil {
			if err := os.WriteFile(key, raw, 0o400); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := func(o Options, says string) {
		t.Helper()
		before := files(t, o.Dir)
		_, err := Open(o, nil)
		if !errors.Is(err, ErrKey) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "from your backup") {
			t.Errorf("%v; want it to say %q", err, says)
		}
		if d := cmp.Diff(before, files(t, o.Dir)); d != "" {
			t.Errorf("files changed: %s", d)
		}
	}
	put(key, nil)
	refused(Options{Dir: dir}, "lists.key is missing")
	put(key, bytes.Repeat([]byte{7}, keySize))
	refused(Options{Dir: dir}, "are sealed with key "+s.keys.keys.id)
	put(key, right[:keySize-1])
	refused(Options{Dir: dir}, "31 bytes long instead of 32")

	alone := t.TempDir() // no copy to fall back to
	for _, name := range []string{"lists.db", "lists.key"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "lists.key" {
			text = bytes.Repeat([]byte{8}, keySize)
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(alone, "snapshots"), 0o700), os.WriteFile(filepath.Join(alone, name), text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	refused(Options{Dir: alone}, "are sealed with key "+s.keys.keys.id)

	// Neither is a copy taken for damaged because there is no key to it.
	damaged := t.TempDir()
	if err := os.CopyFS(damaged, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	put(filepath.Join(damaged, "lists.key"), nil)
	if err := os.WriteFile(filepath.Join(damaged, "lists.db"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(Options{Dir: damaged}, "lists.key is missing")

	elsewhere := filepath.Join(t.TempDir(), "elsewhere.key")
	put(elsewhere, right)
	s, _ = open(t, Options{Dir: dir, KeyFile: elsewhere})
	if got, _ := undated(t, s); cmp.Diff(want, got) != "" {
		t.Error(cmp.Diff(want, got))
	}
}

// files are the contents below a directory, but for the lock.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" || strings.HasSuffix(path, "-shm") || strings.HasSuffix(path, "-wal") {
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestKeyRemoved: a key file that goes while the store runs is there again before anybody needs it.
func TestKeyRemoved(t *testing.T) {
	m := newMachine()
	s, dir := filled(t, Options{Clock: m.clock()})
	key := filepath.Join(dir, "lists.key")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	m.pass(2 * time.Second)
	s.tidy()
	want, _ := undated(t, s)
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir, Clock: m.clock()})
	if got, _ := undated(t, s); cmp.Diff(want, got) != "" {
		t.Error(cmp.Diff(want, got))
	}
}

// TestSealerBinds: a sealed value means nothing in another place.
func TestSealerBinds(t *testing.T) {
	k, err := newSealer(bytes.Repeat([]byte{1}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(bytes.Repeat([]byte{2}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	id := lists.ID{Kind: lists.KindCookie, Name: "SID", Value: "hush-1"}
	at := id
	at.Value = k.value(id)
	if k.value(id) != at.Value || at.Value == id.Value {
		t.Errorf("sealed twice: %s and %s", at.Value, k.value(id))
	}
	same := at
	if err := k.open(&same); err != nil || same != id {
		t.Errorf("%+v, %v", same, err)
	}
	changed := []byte(at.Value)
	changed[len(changed)/2] ^= 1
	for what, moved := range map[string]lists.ID{
		"another name": {Kind: id.Kind, Name: "PHPSESSID", Value: at.Value}, "another kind": {Kind: lists.KindAPIKey, Name: "SID", Value: at.Value},
		"changed": {Kind: id.Kind, Name: "SID", Value: string(changed)}, "cut": {Kind: id.Kind, Name: "SID", Value: "AAAA"},
	} {
		if err := k.open(&moved); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := other.open(&at); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another key: %v", err)
	}
	if k.hash(id) == other.hash(id) || k.hash(id) == hashID(id) {
		t.Error("the hash of a secret does not depend on the key")
	}
	if ip := ipAt(1); k.hash(ip) != other.hash(ip) || k.value(ip) != ip.Value {
		t.Error("an address is sealed")
	}
}
