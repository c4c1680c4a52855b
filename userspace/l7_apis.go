package userspace

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/durable"
)

// maxAPIs bounds the definitions of a node.
const maxAPIs = 4096

// definitions are the API definitions of a node: durable in its state directory, and in force in its shim. It
// implements control.Definitions. Safe for concurrent use.
type definitions struct {
	set atomic.Pointer[apis.Set]

	mu     sync.Mutex // one change at a time
	files  apis.Files
	broken []apis.Broken
	use    func(*apis.Set) // puts a set in force; nil: nobody does
}

// openDefinitions reads state_dir/apis.
func openDefinitions(stateDir string, log *slog.Logger) (*definitions, error) {
	files, all, broken, err := apis.OpenFiles(filepath.Join(stateDir, "apis"))
	if err != nil {
		return nil, err
	}
	for _, b := range broken {
		log.Error("API is not served", "api", b.ID, "error", b.Err)
	}
	d := &definitions{files: files, broken: broken}
	d.set.Store(apis.NewSet(all...))
	return d, nil
}

// follow has use called with the present set, and with every later one before the change of it is answered.
func (d *definitions) follow(use func(*apis.Set)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.use = use
	use(d.set.Load())
}

// keep reads definitions again that could not be read, and writes those in force again if their directory was removed.
func (d *definitions) keep(log *slog.Logger) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.files.Keep(slices.Collect(d.set.Load().All())); err != nil {
		return err
	}
	for _, b := range slices.Clone(d.broken) {
		if a, err := d.files.Load(b.ID, slices.Collect(d.set.Load().All())); err == nil {
			log.Info("API is served: its definition can be read now", "api", b.ID)
			_ = d.publish(a, b.ID, nil) // fails with the error it is given
		}
	}
	return nil
}

// problems are the definitions that could not be read, one line each.
func (d *definitions) problems() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.broken {
		all = append(all, fmt.Sprintf("API %s is not served: %v; mend it with: update_api %s.json, or delete_api %s", b.ID, b.Err, b.ID, b.ID))
	}
	return all
}

// List returns the definitions by ID, those that could not be read among them.
func (d *definitions) List() []control.API {
	var all []control.API
	for a := range d.set.Load().All() {
		all = append(all, wireAPI(a))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.broken {
		all = append(all, control.API{ID: b.ID, Problem: b.Err.Error(), Inert: []string{}})
	}
	slices.SortFunc(all, func(a, b control.API) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Get returns one with its text.
func (d *definitions) Get(id string) (control.API, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.set.Load().Get(id)
	if a == nil {
		return control.API{}, d.missing(id)
	}
	w := wireAPI(a)
	w.Definition = string(a.Raw)
	return w, nil
}

// missing says why no API of that ID is served. Who calls it holds mu.
func (d *definitions) missing(id string) error {
	for _, b := range d.broken {
		if b.ID == id {
			return &control.Error{Code: control.CodeFailed, Message: b.Err.Error(), Hint: "mend it with: update_api " + id + ".json"}
		}
	}
	return &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("%v: %s", apis.ErrNotFound, lists.Quote(id)), Hint: "see: list_api"}
}

// Change adds, replaces or deletes a definition.
func (d *definitions) Change(how control.DefinitionChange, file, text string) (control.API, []string, error) {
	if how == control.DeleteAPI {
		id := strings.TrimSuffix(file, ".json")
		return control.API{ID: id}, nil, d.delete(id)
	}
	a, err := apis.Parse(file, []byte(text))
	if err != nil {
		return control.API{}, nil, wireAPIError(err)
	}
	if err := d.put(a, how); err != nil {
		return control.API{}, nil, err
	}
	var notes []string
	if len(a.Inert) > 0 {
		notes = append(notes, "without effect here: "+strings.Join(a.Inert, ", "))
	}
	if !a.EnableBlocking {
		notes = append(notes, "enable_blocking is false: nobody is blocked whose request is for "+a.ID)
	}
	return wireAPI(a), notes, nil
}

// SetBlocking has the lists enforced for an API, or not.
func (d *definitions) SetBlocking(id string, on bool) (control.API, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.set.Load().Get(id)
	if a == nil {
		return control.API{}, d.missing(id)
	}
	if a.EnableBlocking == on {
		return wireAPI(a), nil
	}
	next, err := a.WithBlocking(on)
	if err != nil {
		return control.API{}, wireAPIError(err)
	}
	return wireAPI(next), d.publish(next, id, d.files.Save(next))
}

func (d *definitions) put(a *apis.API, how control.DefinitionChange) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := slices.Collect(d.set.Load().All())
	known := d.known(a.ID)
	switch {
	case how == control.AddAPI && known:
		return &control.Error{Code: control.CodeInvalid, Message: fmt.Sprintf("%v: %s", apis.ErrExists, a.ID), Hint: "replace it with: update_api " + a.ID + ".json"}
	case how == control.UpdateAPI && !known:
		return &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("%v: %s", apis.ErrNotFound, a.ID), Hint: "add it with: add_api " + a.ID + ".json"}
	case how == control.AddAPI && len(all) >= maxAPIs:
		return &control.Error{Code: control.CodeInvalid, Message: fmt.Sprintf("there are %d API definitions already, no more are taken", len(all))}
	}
	if err := apis.Conflict(all, a); err != nil {
		return wireAPIError(err)
	}
	return d.publish(a, a.ID, d.files.Save(a))
}

func (d *definitions) delete(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.known(id) {
		return d.missing(id)
	}
	return d.publish(nil, id, d.files.Remove(id))
}

// known reports whether there is a definition of that ID, broken or not. Who calls it holds mu.
func (d *definitions) known(id string) bool {
	return d.set.Load().Get(id) != nil || slices.ContainsFunc(d.broken, func(b apis.Broken) bool { return b.ID == id })
}

// publish puts a set in force in which a, if not nil, stands in the place of id, if that is what the files say after a
// change of them that came to err. Who calls it holds mu.
func (d *definitions) publish(a *apis.API, id string, err error) error {
	if err != nil && !errors.Is(err, durable.ErrUnsynced) {
		return wireAPIError(err)
	}
	all := slices.DeleteFunc(slices.Collect(d.set.Load().All()), func(b *apis.API) bool { return b.ID == id })
	if a != nil {
		all = append(all, a)
	}
	d.broken = slices.DeleteFunc(d.broken, func(b apis.Broken) bool { return b.ID == id })
	next := apis.NewSet(all...)
	d.set.Store(next)
	if d.use != nil {
		d.use(next)
	}
	if err != nil {
		return wireAPIError(err)
	}
	return nil
}

func wireAPIError(err error) error {
	wire := &control.Error{Code: control.CodeFailed, Message: err.Error()}
	switch {
	case errors.Is(err, apis.ErrInvalid):
		wire.Code, wire.Hint = control.CodeInvalid, "nothing was changed"
	case errors.Is(err, apis.ErrExists):
		wire.Code, wire.Hint = control.CodeInvalid, "give it another hostname or url, or delete the other with delete_api"
	case errors.Is(err, durable.ErrUnsynced):
		wire.Hint = "look at the disk that holds the state directory"
	default:
		wire.Hint = "free space in the state directory and try again"
	}
	return wire
}

func wireAPI(a *apis.API) control.API {
	w := control.API{ID: a.ID, Protocol: a.Protocol, Hostname: a.Hostname, URL: a.URL, EnableBlocking: a.EnableBlocking, Inert: a.Inert}
	switch {
	case a.Decoy.Enabled && len(a.Decoy.Subpaths) > 0:
		w.Decoy = "in-context"
	case a.Decoy.Enabled:
		w.Decoy = "out-context"
	}
	if w.Inert == nil {
		w.Inert = []string{}
	}
	return w
}
