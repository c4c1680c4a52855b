package userspace

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
)

// fakeSamples stands in for the kernel: what is sent to batches is read, for as long as somebody reads.
type fakeSamples struct {
	batches chan []loader.Sample
	began   chan struct{}
	ended   chan struct{}
	fail    chan error
}

func (f *fakeSamples) read(ctx context.Context, each func([]loader.Sample)) error {
	f.began <- struct{}{}
	defer func() { f.ended <- struct{}{} }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-f.fail:
			return err
		case b := <-f.batches:
			each(b)
		}
	}
}

// TestWatchers: samples are read while somebody watches, each gets what he wants, and who is slow is told what he missed.
func TestWatchers(t *testing.T) {
	f := &fakeSamples{make(chan []loader.Sample), make(chan struct{}), make(chan struct{}), make(chan error)}
	resolve := func(s loader.Sample) control.Drop { return control.Drop{Length: s.Length, Packets: s.Packets} }
	w := newWatchers(f.read, resolve, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	within := func(c <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-c:
		case <-ctx.Done():
			t.Fatal(what)
		}
	}

	all := w.subscribe(func(*control.Drop) bool { return true })
	within(f.began, "nobody reads though somebody watches")
	long := w.subscribe(func(d *control.Drop) bool { return d.Length > 100 })
	f.batches <- []loader.Sample{{Length: 60}, {Length: 1500}}
	if drops, lost, err := all.Next(ctx); err != nil || lost != 0 || len(drops) != 2 {
		t.Errorf("%v, %d lost, %v", drops, lost, err)
	}
	if drops, lost, err := long.Next(ctx); err != nil || lost != 0 || len(drops) != 1 || drops[0].Length != 1500 {
		t.Errorf("%v, %d lost, %v", drops, lost, err)
	}

	for range 2 {
		f.batches <- make([]loader.Sample, watchRoom) // taken by nobody
	}
	f.batches <- nil // so the ones before are delivered
	if drops, lost, err := all.Next(ctx); err != nil || lost != watchRoom || len(drops) != watchRoom {
		t.Errorf("%d drops, %d lost, %v; want %d of each", len(drops), lost, err, watchRoom)
	}
	f.batches <- []loader.Sample{{Length: 1}}
	if drops, lost, err := all.Next(ctx); err != nil || lost != 0 || len(drops) != 1 {
		t.Errorf("%v, %d lost, %v after some were", drops, lost, err)
	}

	gone, hangUp := context.WithCancel(ctx)
	hangUp()
	if _, _, err := long.Next(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("%v after hanging up", err)
	}
	long.Close()
	all.Close()
	within(f.ended, "reading goes on though nobody watches")

	again := w.subscribe(func(*control.Drop) bool { return true })
	within(f.began, "nobody reads for who comes later")
	broken := errors.New("broken")
	f.fail <- broken
	within(f.ended, "reading")
	if _, _, err := again.Next(ctx); !errors.Is(err, broken) {
		t.Errorf("%v, want what is broken", err)
	}
	within(f.began, "it is not tried again")
	again.Close()
	within(f.ended, "reading goes on")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
