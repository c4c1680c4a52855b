package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/gaissmai/bart"
	"golang.org/x/sync/errgroup"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/shim/sideband"
)

// ErrUnprotected: the interfaces are there and not one could be attached, so that there is nothing to run for.
var ErrUnprotected = errors.New("no interface could be protected")

// Run is the daemon: it opens store and loader, attaches, enforces, and serves the control API until ctx ends.
// Ending is not detaching: the kernel goes on enforcing. ready is called once enforcement and API are up.
//
// The order is such that no packet passes unjudged that was judged before: what an earlier daemon pinned stays in
// force until the whole list of this one is in the kernel, and only then is the program exchanged.
func Run(ctx context.Context, c Config, version string, log *slog.Logger, ready func()) error {
	if err := c.Check(); err != nil {
		return err
	}
	if len(c.Interfaces) == 0 && !c.judges() {
		return fmt.Errorf("%w: interfaces: none named: give --interface IF or interfaces in the configuration, or a way for requests to be judged", ErrConfig)
	}
	if len(c.Interfaces) == 0 && c.IPEnforcement == enforceKernel {
		return fmt.Errorf("%w: ip_enforcement: \"kernel\" without interfaces: no listed address would be blocked; name interfaces, or leave it out", ErrConfig)
	}
	n := &node{config: c, version: version, started: time.Now(), log: log, limited: limitLog(log, time.Now)}
	var err error
	if n.protector, err = newProtector(c); err != nil {
		return err
	}
	n.findProtected()

	n.progress("reading lists", 0, 0)
	n.store, err = store.Open(store.Options{Dir: c.StateDir, KeyFile: c.KeyFile, Check: n.checkRoom, Evict: n.evict, Logger: log}, nil)
	if err != nil {
		return fmt.Errorf("open lists: %w", err)
	}
	defer n.store.Close()
	n.opened = n.store.Snapshot().Generation()
	n.makeRoom()
	if n.tokens, err = sideband.OpenTokens(c.StateDir); err != nil { // keeps nothing else from working
		log.Error(err.Error())
	}
	if n.definitions, err = openDefinitions(c.StateDir, log); err != nil {
		return err
	}

	ld, err := n.openKernel()
	if err != nil {
		return err
	}
	if ld != nil {
		defer ld.Close()
	}

	server, err := n.newControl()
	if err != nil {
		return err
	}
	defer server.Close()
	n.control = server
	n.keepFiles()
	socket, err := control.Listen(c.Socket)
	if err != nil {
		return err
	}
	defer socket.Close()

	if err := n.startL7(ctx); err != nil {
		return err
	}
	defer n.closeL7()
	numbers := newMetrics(n.Status, n.Snapshot, n.lenPrefixes, n.config.Capacity, n.index, n.places)
	numbers.also = n.l7Numbers()
	if ld == nil {
		n.followSettings(n.store.Snapshot())
	} else if err := n.startKernel(ctx, ld, numbers); err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return quiet(ctx, n.store.Run(ctx)) })
	if ld != nil {
		g.Go(func() error { return quiet(ctx, n.enforce.run(ctx)) })
		g.Go(func() error { return quiet(ctx, n.keepAttached(ctx, ld)) })
		g.Go(func() error { n.sweep(ctx); return nil })
		g.Go(func() error { return quiet(ctx, n.watchers.run(ctx)) })
	}
	n.runL7(ctx, g)
	g.Go(func() error { every(ctx, keepFilesEvery, n.keepFiles); return nil })
	g.Go(func() error { n.watchRoom(ctx); return nil })
	g.Go(func() error { return quiet(ctx, server.Serve(ctx, socket)) })
	if c.Metrics != "" {
		g.Go(func() error { n.showMetrics(ctx, numbers); return nil })
	}
	log.Info("enforcing", "generation", n.store.Snapshot().Generation(),
		"whitelist", n.store.Snapshot().Len(lists.Whitelist), "blacklist", n.store.Snapshot().Len(lists.Blacklist), "took", time.Since(n.started))
	if ready != nil {
		ready()
	}
	go debug.FreeOSMemory() // working the lists out took more memory than holding them
	return g.Wait()
}

// newControl makes the control API's server.
func (n *node) newControl() (*control.Server, error) {
	o := control.Options{
		Backend: n, StateDir: n.config.StateDir, Used: n.opened > 1, Version: n.version, Logger: n.log,
		APIs: n.definitions, Why: n.why, Sideband: keepTokens{n.tokens, n.store.Clock().Now}, Now: n.store.Clock().Now,
	}
	if n.config.judges() {
		o.WhyHTTP = n.whyHTTP
	}
	if n.maps != nil {
		n.offerDrops(&o)
	}
	server, err := control.New(o)
	if err != nil {
		return nil, fmt.Errorf("open control: %w", err)
	}
	return server, nil
}

// openKernel opens the kernel's side; nil where no interface is to be protected: that needs no capability.
func (n *node) openKernel() (*loader.Loader, error) {
	n.interfaces.Store(new([]loader.Attachment))
	c := n.config
	if len(c.Interfaces) == 0 {
		links, _ := filepath.Glob(filepath.Join(c.PinDir, "link_*")) // who may not look there sees none
		n.leftover = len(links) > 0
		return nil, nil
	}
	ld, err := loader.Open(loader.Options{
		PinDir: c.PinDir, Mode: loader.Mode(c.Mode), Lookup: loader.Lookup(c.Lookup), Capacity: mapCapacity(c.Capacity), Logger: n.log,
		Boot: n.store.Clock().Boot, Accounting: loader.Accounting(c.Accounting),
	})
	if err != nil {
		return nil, fmt.Errorf("open kernel side: %w", err)
	}
	n.maps = ld.Maps()
	if err := keepsLists(ld.Enforced(), n.opened, c.StateDir); err != nil {
		return nil, errors.Join(err, ld.Close())
	}
	return ld, nil
}

// startKernel brings the maps to the store's state, and only then attaches.
func (n *node) startKernel(ctx context.Context, ld *loader.Loader, numbers *metrics) error {
	n.enforce = newEnforcement(n.maps, n.store, n.log, n.findProtected, n.followSettings)
	n.enforce.table.PassOnly = n.config.ipEnforcement() == enforceL7
	n.enforce.observe = numbers.observe
	n.enforce.contents, n.enforce.now = n.maps, n.store.Clock().Now
	numbers.drift = n.enforce.drifted
	n.maps.Follow(n.enforce.table)
	v4, v6 := n.lenPrefixes(n.store.Snapshot())
	if err := n.enforce.start(ctx, func(done int) { n.progress("filling kernel maps", done, v4+v6) }); err != nil {
		return err
	}
	return n.attachAll(ld)
}

// every calls f again and again until ctx ends.
func every(ctx context.Context, pause time.Duration, f func()) {
	again := time.NewTicker(pause)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			f()
		}
	}
}

// keepFilesEvery is how long what was removed, or could not be read, stays so.
const keepFilesEvery = 5 * time.Second

// keepFiles reads files again that could not be read, and writes those again that were removed, of what the state directory
// holds beside the lists, which the store keeps.
func (n *node) keepFiles() {
	var failed []error
	for _, err := range []error{n.definitions.keep(n.log), n.tokens.Keep(), n.control.Keep()} {
		if err != nil {
			failed = append(failed, err)
		}
	}
	n.files.Store(&failed)
}

// sweep has the kernel free what lists that were replaced took.
func (n *node) sweep(ctx context.Context) {
	every(ctx, time.Second, func() {
		if err := n.maps.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("kernel memory of replaced lists is not freed yet, will try again", "error", err)
		}
	})
}

// progress tells who started the daemon how far that is.
func (n *node) progress(what string, done, total int) {
	if n.config.Progress != nil {
		n.config.Progress(what, done, total)
	}
}

// ErrNewState: the state directory is new, but the kernel already enforces lists.
var ErrNewState = errors.New("state directory is new, but the kernel enforces lists that came from another")

// firstGeneration is what a new store begins with.
const firstGeneration = 1

// keepsLists refuses to put the empty lists of a new state directory in the place of what the kernel enforces: then
// the directory was lost or is the wrong one, and every block would end without anybody's order.
func keepsLists(enforced, stored uint64, stateDir string) error {
	if stored > firstGeneration || enforced <= stored {
		return nil
	}
	return fmt.Errorf("open lists in %s: %w (generation %d), and goes on enforcing them: name the right state directory or put a backup "+
		"of lists.db there; to begin with empty lists, first run: portcullis detach", stateDir, ErrNewState, enforced)
}

// quiet drops the error of a part that ended because it was told to.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// findProtected looks at the host again and remembers the answer for the guard.
func (n *node) findProtected() []netip.Prefix {
	found, err := n.protector.find()
	if err != nil {
		n.log.Warn("some protected addresses are unknown", "error", err)
		if last := n.protected.Load(); last != nil {
			found = *last // rather one too many than one too few
		}
	}
	if last := n.protected.Load(); last == nil || !slices.Equal(*last, found) {
		table := new(bart.Lite)
		for _, p := range found {
			table.Insert(p.prefix)
		}
		n.shielded.Store(table)
	}
	n.protected.Store(&found)
	n.room.Store(int64(len(found)))
	return prefixes(found)
}

// followSettings obeys the switches of a snapshot that are the daemon's own.
func (n *node) followSettings(s *lists.Snapshot) {
	text := s.Settings().LogLevel
	if n.config.LogLevel != "" && s.Generation() == n.opened {
		text = n.config.LogLevel // told at start; a later log_level command wins
	}
	if level, ok := parseLevel(text); ok && n.config.Level != nil {
		n.config.Level.Set(level)
	}
}

// attachAll protects every interface that can be. It fails only if none can and none is still to come, as a VLAN, WireGuard
// or PPP device may be: that is attached when it appears, and until then lists are kept and the rest is served.
func (n *node) attachAll(ld *loader.Loader) error {
	var all []loader.Attachment
	var failed []error
	missing := false
	for _, name := range n.config.Interfaces {
		a, err := ld.Attach(name)
		if a.Interface, a.Err = name, err; !protected(a) {
			failed = append(failed, err)
			missing = missing || errors.Is(err, loader.ErrNoInterface)
		}
		all = append(all, a)
	}
	n.interfaces.Store(&all)
	if len(failed) == len(all) && !missing {
		return fmt.Errorf("%w: %w", ErrUnprotected, errors.Join(failed...))
	}
	for _, a := range all {
		n.logAttachment(a)
	}
	return nil
}

// protected reports whether packets of the interface are judged: also where the loader complains, of the mode that an
// earlier daemon attached in.
func protected(a loader.Attachment) bool { return a.Mode != "" }

func (n *node) logAttachment(a loader.Attachment) {
	if !protected(a) {
		n.log.Error("interface is not protected", "interface", a.Interface, "error", a.Err)
		return
	}
	if a.Err != nil {
		n.log.Warn("interface is protected otherwise than asked for", "interface", a.Interface, "error", a.Err)
	}
	n.log.Info("interface is protected", "interface", a.Interface, "mode", a.Mode, "frags", a.Frags, "layer3", a.Layer3, "adopted", a.Adopted)
	if a.Fallback != "" {
		n.log.Warn("generic mode, slower than native", "interface", a.Interface, "why", a.Fallback)
	}
}

// keepAttached attaches again where an interface was made anew: at once when the kernel says so, else every second.
func (n *node) keepAttached(ctx context.Context, ld *loader.Loader) error {
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := loader.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if ctx.Err() == nil && err != nil {
			n.log.Warn("no news of interfaces from the kernel, looking every second", "error", err)
		}
		return nil
	})
	g.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-tick.C:
			}
			n.noteAttachments(ld.Reconcile())
		}
	})
	return g.Wait()
}

// noteAttachments publishes the state of the interfaces and logs what changed.
func (n *node) noteAttachments(now []loader.Attachment) {
	before := *n.interfaces.Load()
	for _, a := range now {
		i := slices.IndexFunc(before, func(b loader.Attachment) bool { return b.Interface == a.Interface })
		if i >= 0 && (before[i].Err == nil) == (a.Err == nil) && before[i].Index == a.Index {
			continue
		}
		n.logAttachment(a)
	}
	n.interfaces.Store(&now)
}
