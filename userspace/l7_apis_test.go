package userspace

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/control"
)

func definition(path string) string {
	return fmt.Sprintf(`{"api_metadata": {"protocol": "http", "url": "%s", "hostname": "*", "login_url": "/l"}}`, path)
}

// TestDefinitions: what a change leaves behind is in force when it is answered, and there after a restart.
func TestDefinitions(t *testing.T) {
	dir := t.TempDir()
	d, err := openDefinitions(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var used []*apis.Set
	d.follow(func(s *apis.Set) { used = append(used, s) })
	inForce := func() (found []string) {
		for a := range used[len(used)-1].All() {
			found = append(found, fmt.Sprintf("%s %t", a.ID, a.EnableBlocking))
		}
		return found
	}
	a, notes, err := d.Change(control.AddAPI, "a.json", definition("/a"))
	if err != nil || a.ID != "a" || !slices.Equal(notes, []string{"without effect here: login_url"}) {
		t.Fatalf("add: %+v, %q, %v", a, notes, err)
	}
	if _, err := d.SetBlocking("a", false); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a false", "root true"}; !slices.Equal(inForce(), want) || len(used) != 3 {
		t.Errorf("in force: %v after %d changes", inForce(), len(used)-1)
	}
	if _, err := d.SetBlocking("a", false); err != nil || len(used) != 3 {
		t.Errorf("the same again: %v, %d sets", err, len(used))
	}
	if _, _, err := d.Change(control.DeleteAPI, "root.json", ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Change(control.UpdateAPI, "a.json", definition("a")); err == nil || !strings.Contains(err.Error(), "does not begin with /") {
		t.Errorf("a bad update: %v", err)
	}
	if d, err = openDefinitions(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get("a"); err != nil || got.EnableBlocking || len(d.List()) != 1 {
		t.Errorf("after a restart: %+v, %v, %v", got, err, d.List())
	}
}

// TestKeptDefinitions: what could not be read at start is served once it can be, and a directory that was removed is
// written again.
func TestKeptDefinitions(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	broken, whole := filepath.Join(dir, "apis", "a.json"), definition("/a")
	if err := errors.Join(os.MkdirAll(broken, 0o700), os.WriteFile(filepath.Join(dir, "apis", "b.json"), []byte(definition("/b")), 0o600)); err != nil {
		t.Fatal(err)
	}
	d, err := openDefinitions(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	var used *apis.Set
	d.follow(func(s *apis.Set) { used = s })
	if err := d.keep(log); err != nil || len(d.problems()) != 1 || used.Get("a") != nil || used.Get("b") == nil {
		t.Fatalf("a folder for a definition: %v, %q", err, d.problems())
	}
	if err := errors.Join(os.Remove(broken), os.WriteFile(broken, []byte(whole), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := d.keep(log); err != nil || len(d.problems()) != 0 || used.Get("a") == nil || used.Get("b") == nil {
		t.Fatalf("mended: %v, %q", err, d.problems())
	}
	if err := os.RemoveAll(filepath.Join(dir, "apis")); err != nil {
		t.Fatal(err)
	}
	if err := d.keep(log); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(broken); err != nil || string(text) != whole {
		t.Errorf("written again: %q, %v", text, err)
	}
	if again, err := openDefinitions(dir, log); err != nil || len(again.List()) != 2 {
		t.Errorf("after a restart: %v, %v", again.List(), err)
	}
}

// TestDefinitionsAtOnce: of many that add one API one succeeds; of many APIs none is lost.
func TestDefinitionsAtOnce(t *testing.T) {
	d, err := openDefinitions(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	added := map[string]int{}
	for i := range 32 {
		wg.Go(func() {
			id := fmt.Sprintf("api%d", i%8)
			_, _, err := d.Change(control.AddAPI, id+".json", definition("/"+id))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				added[id]++
			} else if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.CodeInvalid {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	wg.Wait()
	for id, n := range added {
		if n != 1 {
			t.Errorf("%s was added %d times", id, n)
		}
	}
	if n := len(d.List()); n != 9 || len(added) != 8 {
		t.Errorf("%d APIs of %d", n, len(added)+1)
	}
}
