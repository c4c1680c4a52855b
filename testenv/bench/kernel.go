package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader"
)

// mode is a way the program looks sources up, chosen by a read-only constant of it.
type mode struct {
	name  string
	value uint32
}

// modes that this build has, the authority first. What a mode does beyond it is measured against it.
var modes = []mode{
	{"lpm", bpf.ModeLPM},
	{"indexed", bpf.ModeIndexed},
}

// held is a list in the kernel, put there by the loader; nothing is attached.
type held struct {
	l   *loader.Loader
	dir string
}

// hold writes the list to maps of its own below a bpf filesystem. twice writes it again and so discards the first
// fill: that one has memory laid out more neatly than maps that have lived for a while.
func hold(bpffs string, list blocklist, twice bool) (*held, error) {
	dir, err := os.MkdirTemp(bpffs, "list")
	if err != nil {
		return nil, fmt.Errorf("hold list: %w", err)
	}
	h := &held{dir: filepath.Join(dir, "maps")}
	if h.l, err = loader.Open(loader.Options{PinDir: h.dir}); err != nil {
		return nil, err
	}
	err = h.fill(list)
	if err == nil && twice {
		err = h.fill(list)
	}
	if err != nil {
		return nil, errors.Join(err, h.l.Close())
	}
	return h, nil
}

// fill makes the maps hold a list. What they held before stays where no program looks: freeing it takes ten seconds a million.
func (h *held) fill(list blocklist) error {
	return h.l.Maps().Replace(context.Background(), 1, list.cells(), 0, nil)
}

// renew does what a living daemon does every second, without which the index drops nothing by itself.
func (h *held) renew() error { return h.l.Maps().Renew() }

// release gives the maps back.
func (h *held) release() error { return errors.Join(h.l.Close(), os.RemoveAll(h.dir)) }

// load loads programs of a spec in a mode, with the pinned maps of the list wherever the spec has one of that name.
func (h *held) load(spec *ebpf.CollectionSpec, m mode, programs ...string) (*ebpf.Collection, error) {
	wanted := make(map[string]*ebpf.ProgramSpec)
	for _, name := range programs {
		wanted[name] = spec.Programs[name]
	}
	spec.Programs = wanted
	if err := spec.Variables[bpf.VarMode].Set(m.value); err != nil {
		return nil, fmt.Errorf("load programs: set mode: %w", err)
	}
	pinned := make(map[string]*ebpf.Map)
	defer func() {
		for _, p := range pinned {
			_ = p.Close()
		}
	}()
	for name := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue // variables
		}
		p, err := ebpf.LoadPinnedMap(filepath.Join(h.dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		pinned[name] = p
		spec.Maps[name].MaxEntries = p.MaxEntries()
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: pinned})
	if err != nil {
		return nil, fmt.Errorf("load programs in mode %s: %w", m.name, err)
	}
	return c, nil
}
