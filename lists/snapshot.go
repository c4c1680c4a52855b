package lists

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Settings are the durable switches of a node. They live beside the entries so that a generation names both.
type Settings struct {
	Firewall          bool `json:"firewall"`            // off: nothing is blocked, in the kernel or in the shim
	ABS               bool `json:"abs"`                 // send access logs to the analysis engine
	ABSAttack         bool `json:"abs_attack"`          // take over what the analysis engine found
	ASEDetectedAttack bool `json:"ase_detected_attack"` // real-time detectors may blacklist
	Audit             bool `json:"audit"`               // write the audit log
	// SidebandAuthentication: a gateway that asks must show a sideband token.
	SidebandAuthentication bool `json:"sideband_authentication"`
	// XFFIgnored: X-Forwarded-For counts for nothing, whoever sends it. Otherwise that of trusted proxies is read.
	XFFIgnored bool   `json:"xff_ignored"`
	LogLevel   string `json:"log_level"` // debug, info, warn, error
}

// DefaultSettings are those of a new node: firewall and audit on, automatic blocking off, log level info.
func DefaultSettings() Settings {
	return Settings{Firewall: true, Audit: true, LogLevel: "info"}
}

// diff says how s differs from old: "firewall disabled, log_level debug".
func (s Settings) diff(old Settings) string {
	var parts []string
	for _, sw := range []struct {
		name         string
		now, changed bool
	}{
		{"firewall", s.Firewall, s.Firewall != old.Firewall},
		{"abs", s.ABS, s.ABS != old.ABS},
		{"abs_attack", s.ABSAttack, s.ABSAttack != old.ABSAttack},
		{"ase_detected_attack", s.ASEDetectedAttack, s.ASEDetectedAttack != old.ASEDetectedAttack},
		{"audit", s.Audit, s.Audit != old.Audit},
		{"sideband_authentication", s.SidebandAuthentication, s.SidebandAuthentication != old.SidebandAuthentication},
		{"xff", !s.XFFIgnored, s.XFFIgnored != old.XFFIgnored},
	} {
		switch {
		case sw.changed && sw.now:
			parts = append(parts, sw.name+" enabled")
		case sw.changed:
			parts = append(parts, sw.name+" disabled")
		}
	}
	if s.LogLevel != old.LogLevel {
		parts = append(parts, "log_level "+s.LogLevel)
	}
	return strings.Join(parts, ", ")
}

// Snapshot is the state of both lists and the switches at one generation. It is immutable and safe for
// concurrent use; the zero value is generation 0 with no entries and zero Settings.
//
// Snapshots share structure: a change of one entry among a million costs microseconds and kilobytes, not a copy.
// An IP entry takes about 80 bytes; others 64 more than their value, reasons, comments and names being shared.
// Entries past their end stay in a snapshot until the store removes them (which is a new generation); readers
// that act on entries must look at [Entry.Expired].
type Snapshot struct {
	generation uint64
	settings   Settings
	tables     [2]*table // nil: empty
}

// table returns the list's table, nil if it is empty or there is no such list.
func (s *Snapshot) table(l List) *table {
	if s == nil || !valid(listWords, l) {
		return nil
	}
	return s.tables[l-1]
}

// Generation returns the number of the change that made this snapshot. It only grows.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Settings returns the switches.
func (s *Snapshot) Settings() Settings { return s.settings }

// Len counts the entries of one list, all sources; expired ones not yet removed included.
func (s *Snapshot) Len(l List) int {
	if t := s.table(l); t != nil {
		return t.live
	}
	return 0
}

// LenSource counts the entries of one source of the list.
func (s *Snapshot) LenSource(l List, src Source) int {
	if t := s.table(l); t != nil && valid(sourceWords, src) {
		return t.bySource[src]
	}
	return 0
}

// LenPrefixes counts the different IP identifiers of one list by family, at no cost.
func (s *Snapshot) LenPrefixes(l List) (v4, v6 int) {
	if t := s.table(l); t != nil {
		return t.byFamily[form4], t.byFamily[form6]
	}
	return 0, 0
}

// Get returns the entry with that key.
func (s *Snapshot) Get(k Key) (Entry, bool) { return s.table(k.List).get(k) }

// Find returns the entries of every source that hold id on list l, in the order of sources.
func (s *Snapshot) Find(l List, id ID) []Entry { return s.table(l).findAll(l, id) }

// Entries yields the entries of one list in the order they were added, all sources interleaved.
func (s *Snapshot) Entries(l List) iter.Seq[Entry] { return s.table(l).entries(l, 0) }

// Prefixes calls f for every IP entry of one list in the order they were added, until it says false: what Entries
// yields, in a third of the time. A zero expires means never.
func (s *Snapshot) Prefixes(l List, f func(p netip.Prefix, src Source, expires time.Time) bool) {
	t := s.table(l)
	if t == nil {
		return
	}
	t.each(0, func(r *record) bool {
		if r.kind != KindIP {
			return true
		}
		p, ok := r.prefix()
		return !ok || f(p, r.source, time.Unix(r.expires, 0).UTC())
	})
}

// Section yields the entries of one list and source in the order they were added: what one section of
// view_blacklist shows.
func (s *Snapshot) Section(l List, src Source) iter.Seq[Entry] {
	if s.LenSource(l, src) == 0 {
		return func(func(Entry) bool) {}
	}
	return s.table(l).entries(l, src)
}

// Due yields the entries of both lists whose end is at or before now, in no useful order. Its cost is that of the
// due entries and some microseconds a million others.
func (s *Snapshot) Due(now time.Time) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, l := range []List{Whitelist, Blacklist} {
			if t := s.table(l); t != nil && !t.due(now.Unix(), func(r *record) bool { return yield(r.entry(l)) }) {
				return
			}
		}
	}
}

func (t *table) get(k Key) (Entry, bool) {
	if t == nil {
		return Entry{}, false
	}
	slot := t.findKey(k)
	if slot < 0 {
		return Entry{}, false
	}
	return t.at(slot).entry(k.List), true
}

func (t *table) findAll(l List, id ID) []Entry {
	if t == nil {
		return nil
	}
	p := newProbe(t.seed, id)
	var buf [numSources]int
	var found []Entry
	for _, slot := range t.find(&p, buf[:0]) {
		found = append(found, t.at(slot).entry(l))
	}
	slices.SortFunc(found, func(a, b Entry) int { return cmp.Compare(a.Source, b.Source) })
	return found
}

func (t *table) entries(l List, src Source) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if t != nil {
			t.each(src, func(r *record) bool { return yield(r.entry(l)) })
		}
	}
}
