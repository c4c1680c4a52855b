package apis

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/userspace/durable"
)

//go:embed root.json
var rootJSON []byte

// Root is the API that a new node has: every path of every host name. It enforces the lists, as the seed promises,
// and that breaks nobody: whoever is not listed passes.
func Root() *API {
	a, err := Parse("root.json", rootJSON)
	if err != nil {
		panic(err) // a test holds it
	}
	return a
}

// Files keeps definitions as DIR/ID.json, one a file. One process and one caller at a time.
type Files struct{ dir string }

// Broken is a definition that could not be read: it is kept as it is, and its API is not served.
type Broken struct {
	ID  string
	Err error
}

// OpenFiles returns what a directory holds; a missing one is made, with [Root] in it. Only a directory that cannot be
// read at all is an error.
func OpenFiles(dir string) (Files, []*API, []Broken, error) {
	f := Files{dir}
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = f.begin(Root())
		names = nil
		if err == nil {
			names, err = os.ReadDir(dir)
		}
	}
	if err != nil {
		return f, nil, nil, fmt.Errorf("open API definitions: %w", err)
	}
	var all []*API
	var broken []Broken
	for _, n := range names {
		id, ok := strings.CutSuffix(n.Name(), ".json")
		if !ok {
			continue // not ours, or what a crash left of a write
		}
		a, err := f.Load(id, all)
		if err != nil {
			broken = append(broken, Broken{id, err})
			continue
		}
		all = append(all, a)
	}
	return f, all, broken, nil
}

// Keep makes the directory again, with these definitions in it, if it was removed.
func (f Files) Keep(all []*API) error {
	if _, err := os.Lstat(f.dir); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.begin(all...); err != nil {
		return fmt.Errorf("write removed API definitions again: %w", err)
	}
	return nil
}

// begin makes the directory whole or not at all.
func (f Files) begin(all ...*API) error {
	temporary := f.dir + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := os.Mkdir(temporary, 0o700); err != nil {
		return err
	}
	for _, a := range all {
		if err := (Files{temporary}).Save(a); err != nil {
			return err
		}
	}
	if err := os.Rename(temporary, f.dir); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(f.dir))
}

// Load reads a definition that is to stand beside all. Errors are those of [Parse] and [Conflict], and of the disk.
func (f Files) Load(id string, all []*API) (*API, error) {
	name := id + ".json"
	in, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s: not a file", ErrInvalid, name)
	}
	text, err := io.ReadAll(io.LimitReader(in, MaxSize+1))
	if err != nil {
		return nil, err
	}
	a, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	return a, Conflict(all, a)
}

// Save writes a definition; it is durable, and there whole or not at all, when Save returns. After durable.ErrUnsynced,
// of Remove too, the change is made.
func (f Files) Save(a *API) error {
	if err := durable.Replace(filepath.Join(f.dir, a.ID+".json"), a.Raw, 0o600); err != nil {
		return fmt.Errorf("write API definition: %w", err)
	}
	return nil
}

// Remove takes a definition away for good.
func (f Files) Remove(id string) error {
	if err := durable.Remove(filepath.Join(f.dir, id+".json")); err != nil {
		return fmt.Errorf("delete API definition: %w", err)
	}
	return nil
}

// Conflict is [ErrExists] if another API has the host name and URL of a: of a request to them nobody could say whose it is.
func Conflict(all []*API, a *API) error {
	i := slices.IndexFunc(all, func(b *API) bool { return b.ID != a.ID && b.Hostname == a.Hostname && b.URL == a.URL })
	if i < 0 {
		return nil
	}
	return fmt.Errorf("%w: %s has hostname %s and url %s too", ErrExists, all[i].ID, a.Hostname, a.URL)
}
