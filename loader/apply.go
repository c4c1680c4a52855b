package loader

import (
	"fmt"
	"sync/atomic"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader/compile"
)

// Apply writes the rules to the active tries, in order, then the generation. Transient errors (ENOMEM, EBUSY,
// EDEADLK, ETIMEDOUT) are retried for about a second. Rules that do not fit are refused before anything is
// written ([ErrFull]) once a Replace of this process has counted what the tries hold; before that, the kernel's
// refusal leaves a part applied. So may any other error: a Replace or the same Apply again mends it. Applying is
// idempotent; on error the generation stays.
func (m *Maps) Apply(generation uint64, rules []compile.Rule) error {
	leave, err := m.enter()
	if err != nil {
		return err
	}
	defer leave()
	m.writing.Lock()
	defer m.writing.Unlock()

	m.unsure = true
	after, err := m.checkRoom(rules)
	if err != nil {
		return err
	}
	m.held = [2]int{-1, -1} // until all is written
	if err := m.applyRules(rules); err != nil {
		return fmt.Errorf("apply lists to kernel: %w", err)
	}
	m.held, m.unsure = after, false
	atomic.StoreUint64(&m.words.Generation, generation)
	m.makeRoom()
	return nil
}

func (m *Maps) applyRules(rules []compile.Rule) error {
	defer m.changing()()
	addToIndexes, err := m.removeFromIndexes(rules)
	if err != nil {
		return err
	}
	s := &m.sides[m.words.active()]
	for left := rules; len(left) > 0; {
		n := 1
		for n < len(left) && n < putBatch && alike(left[0], left[n]) {
			n++
		}
		if err := m.applyAlike(s, left[:n]); err != nil {
			return err
		}
		left = left[n:]
	}
	addToIndexes()
	return m.forget(rules)
}

// checkRoom counts what the tries will hold. Puts come before removals, so there must be room for both.
func (m *Maps) checkRoom(rules []compile.Rule) (after [2]int, err error) {
	if m.held[0] < 0 {
		return m.held, nil
	}
	after = m.held
	peak := m.held
	for _, r := range rules {
		family := 0
		if r.Prefix.Addr().Is6() {
			family = 1
		}
		switch {
		case r.Remove:
			after[family]--
		case r.New:
			after[family]++
			peak[family]++
		}
	}
	for _, n := range peak {
		if n > int(m.capacity) {
			return after, fmt.Errorf("apply lists to kernel: %w: %d prefixes of a family, room for %d", ErrFull, n, m.capacity)
		}
	}
	return after, nil
}

// alike reports whether two rules can go into one batch.
func alike(a, b compile.Rule) bool {
	return a.Remove == b.Remove && a.Prefix.Addr().Is4() == b.Prefix.Addr().Is4()
}

// applyAlike writes rules that are all of one family, and all puts or all removals.
func (m *Maps) applyAlike(s *side, rules []compile.Rule) error {
	var keys4 []bpf.KeyV4
	var keys6 []bpf.KeyV6
	var cells []bpf.Cell
	is4, remove := rules[0].Prefix.Addr().Is4(), rules[0].Remove
	for _, r := range rules {
		if is4 {
			keys4 = append(keys4, keyV4(r.Prefix))
		} else {
			keys6 = append(keys6, keyV6(r.Prefix))
		}
		if !remove {
			cells = append(cells, m.boot.cell(r.Prefix, r.Cell))
		}
	}
	switch {
	case is4 && remove:
		return s.v4.remove(keys4)
	case is4:
		return s.v4.put(keys4, cells)
	case remove:
		return s.v6.remove(keys6)
	default:
		return s.v6.put(keys6, cells)
	}
}
