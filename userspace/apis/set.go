package apis

import (
	"iter"
	"slices"
	"strings"
)

// Set is a collection of APIs that requests are matched against. Immutable, safe for concurrent use; the zero value and
// nil hold none.
type Set struct {
	all    []*API            // by ID
	byHost map[string][]*API // longest URL first
}

// Miss says why no API was found.
type Miss uint8

const (
	Found       Miss = iota
	UnknownAPI       // the host is known, the path is of no API
	UnknownHost      // no API has this host
)

// NewSet returns the set of these APIs; of several with one ID the last counts.
func NewSet(all ...*API) *Set {
	byID := make(map[string]*API)
	for _, a := range all {
		byID[a.ID] = a
	}
	s := &Set{byHost: make(map[string][]*API)}
	for _, a := range byID {
		s.all = append(s.all, a)
		s.byHost[a.Hostname] = append(s.byHost[a.Hostname], a)
	}
	slices.SortFunc(s.all, func(a, b *API) int { return strings.Compare(a.ID, b.ID) })
	for _, list := range s.byHost {
		slices.SortFunc(list, func(a, b *API) int {
			if d := len(b.URL) - len(a.URL); d != 0 {
				return d
			}
			return strings.Compare(a.ID, b.ID)
		})
	}
	return s
}

// All yields the APIs in the order of their IDs.
func (s *Set) All() iter.Seq[*API] {
	return func(yield func(*API) bool) {
		if s == nil {
			return
		}
		for _, a := range s.all {
			if !yield(a) {
				return
			}
		}
	}
}

// Get returns the API with that ID, nil if there is none.
func (s *Set) Get(id string) *API {
	for a := range s.All() {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// Find returns the API of a request: among those of the host (lower case, without port) and then those of any host the
// one with the longest URL that the path begins with, segment by segment. The path is decoded and clean: it is the
// caller's to make sure that a backend reads it in the same way. It allocates nothing.
func (s *Set) Find(host, path string) (*API, Miss) {
	if s == nil {
		return nil, UnknownHost
	}
	named := s.byHost[host]
	if a := longest(named, path); a != nil {
		return a, Found
	}
	any := s.byHost["*"]
	if a := longest(any, path); a != nil {
		return a, Found
	}
	if len(named) == 0 && len(any) == 0 {
		return nil, UnknownHost
	}
	return nil, UnknownAPI
}

func longest(list []*API, path string) *API {
	for _, a := range list {
		if a.URL == "/" || path == a.URL || strings.HasPrefix(path, a.URL) && path[len(a.URL)] == '/' {
			return a
		}
	}
	return nil
}
