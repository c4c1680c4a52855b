package differential

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/testenv"
)

var (
	verdicts = flag.Int("verdicts", 5_000_000, "how many verdicts to compare")
	seed     = flag.Uint64("seed", 0, "of the random numbers; 0: by the clock")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDifferential makes random lists of both families in turn, and compares, of random sources and of all edges, the
// verdicts of index, tries, reference matcher and bart, while other entries come and go and whole lists are replaced.
func TestDifferential(t *testing.T) {
	testenv.NeedRoot(t)
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	lab := testenv.New(t)
	bpffs, err := lab.MountBPF()
	must(t, err)
	pins := filepath.Join(bpffs, "differential")
	l, err := loader.Open(loader.Options{PinDir: pins})
	must(t, err)
	defer l.Close()
	ways, questions := loadWays(t, pins, 1<<16)

	d := &run{r: rand.New(rand.NewPCG(*seed, 0)), maps: l.Maps(), table: compile.New(), ways: ways, questions: questions}
	d.maps.Follow(d.table)
	began := time.Now()
	said := began
	for rounds := 0; d.verdicts < *verdicts; rounds++ {
		if err := d.round(rounds%2 == 1); err != nil {
			t.Fatalf("round %d, -seed=%d: %v", rounds, *seed, err)
		}
		if time.Since(said) > time.Minute {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "differential: %d million verdicts, %v\n", d.verdicts/1e6, said.Sub(began).Round(time.Second))
		}
	}
	took := time.Since(began)
	fmt.Printf("differential: seed %d: %d verdicts (index = LPM = reference = bart) on %d lists, %d changes and %d replacements meanwhile, "+
		"%.0f %% dropped, %.0f %% answered by the index, in %v: %.1f million a second\n",
		*seed, d.verdicts, d.lists, d.changes, d.replacements, 100*float64(d.dropped)/float64(d.verdicts),
		100*float64(d.indexed)/float64(d.verdicts), took.Round(time.Second), float64(d.verdicts)/took.Seconds()/1e6)
	state, err := d.maps.Index()
	must(t, err)
	if d.indexed < uint64(d.verdicts)/10 || d.dropped < uint64(d.verdicts)/20 || d.changes == 0 || d.replacements == 0 || state.Mismatches > 0 {
		t.Errorf("-seed=%d: %+v, self-check %+v: too little was tried", *seed, d.counts, state)
	}
}

type counts struct {
	verdicts, lists       int
	changes, replacements int
	dropped, indexed      uint64
}

// run is the state of the whole test.
type run struct {
	r         *rand.Rand
	maps      *loader.Maps
	table     *compile.Table
	ways      []way
	questions []question
	counts
}

// fills is how often the questions are asked anew for one list.
const fills = 16

func (d *run) round(v6 bool) error {
	now := time.Now()
	list := newRound(d.r, v6, now)
	b := lists.NewBuilder(nil)
	for _, e := range list.fixed {
		b.Put(e)
	}
	c := &churn{run: d, list: list, snapshot: b.Snapshot(1), r: rand.New(rand.NewPCG(d.r.Uint64(), 1))}
	d.table.Reset(c.snapshot, nil)
	if err := c.replace(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.work(ctx) }()
	err := func() error {
		for range fills {
			if err := d.ask(list); err != nil {
				return err
			}
		}
		return nil
	}()
	stop()
	d.lists++
	return errors.Join(err, <-done)
}

// ask draws questions, has both oracles answer, and compares what the kernel says.
func (d *run) ask(list *round) error {
	for i := range d.questions {
		s := list.stretches[d.r.IntN(len(list.stretches))]
		a := s.within(d.r).addr(list.v6)
		if outside := list.black.Contains(a) && !list.white.Contains(a); outside != s.drop {
			return fmt.Errorf("%s: bart drops it: %v, the reference: %v", a, outside, s.drop)
		}
		d.questions[i].set(a, s.drop)
	}
	for _, w := range d.ways {
		found, err := w.compare(d.questions, list.v6)
		if err != nil {
			return err
		}
		if w.name == "index" {
			d.dropped += found.dropped
			d.indexed += found.indexed
		}
	}
	d.verdicts += len(d.questions)
	return nil
}

// churn changes the list while verdicts are compared. It is the only writer.
type churn struct {
	*run
	list     *round
	snapshot *lists.Snapshot
	r        *rand.Rand
}

func (c *churn) work(ctx context.Context) error {
	for n := 1; ctx.Err() == nil; n++ {
		if n%40 == 0 {
			if err := c.replace(); err != nil {
				return err
			}
			continue
		}
		b := lists.NewBuilder(c.snapshot)
		var changes []lists.Change
		for range 1 + c.r.IntN(20) {
			e := c.list.churn[c.r.IntN(len(c.list.churn))]
			if before, ok := b.Delete(e.Key); ok {
				changes = append(changes, lists.Change{Before: &before})
				continue
			}
			b.Put(e)
			changes = append(changes, lists.Change{After: &e})
		}
		c.snapshot = b.Snapshot(1)
		if err := c.maps.Apply(1, c.table.Apply(changes)); err != nil {
			return err
		}
		if err := c.maps.Renew(); err != nil {
			return err
		}
		c.changes += len(changes)
	}
	return nil
}

func (c *churn) replace() error {
	c.replacements++
	return errors.Join(c.maps.Replace(context.Background(), 1, c.table.All(), 0, nil), c.maps.Renew())
}
