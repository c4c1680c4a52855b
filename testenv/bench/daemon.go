package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// daemonSide is what the daemon's work takes, times in ms, memory in MB (10^6 bytes).
type daemonSide struct {
	Entries      int    `json:"entries"`    // of the big list, which is also the one that is loaded; the small one has 1 K
	Adds         int    `json:"adds"`       // calls behind each percentile
	AddSmall     spread `json:"add_1k_ms"`  // one address, durable and enforced when the call returns
	AddBig       spread `json:"add_big_ms"` // the same into the big list
	Fsync        spread `json:"fsync_ms"`   // append 4 KiB and fsync, on the same filesystem
	LoadImport   figure `json:"load_import_ms"`
	LoadNft      figure `json:"load_nft_ms"`
	LoadIpset    figure `json:"load_ipset_ms"`
	Startup      figure `json:"startup_ms"` // process start to READY=1 with the big list
	Resident     figure `json:"resident_mb"`
	ResidentPeak figure `json:"resident_peak_mb"`
	Kernel       figure `json:"kernel_mb"`           // after the first start
	Restarted    figure `json:"kernel_restarted_mb"` // after the restarts, once the kernel has freed the emptied maps, or 10 s later
}

// spread is percentiles of many calls.
type spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func spreadOf(took []time.Duration) spread {
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return spread{ms(took[len(took)/2]), ms(took[(len(took)*99+99)/100-1]), ms(took[len(took)-1])}
}

func single(v float64) figure { return figure{v, v, v} }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// measureDaemon runs two daemons side by side, with a small and a big list.
func (s *session) measureDaemon(list blocklist) error {
	d := s.report.Daemon
	d.Entries, d.Adds = len(list.prefixes), s.plan.adds
	bin, err := testenv.Build()
	if err != nil {
		return err
	}
	small, err := s.newDaemon(bin, "small")
	if err != nil {
		return err
	}
	if err := small.Start(); err != nil {
		return err
	}
	defer func() { _ = small.Kill() }()
	kernelBefore, err := testenv.KernelMemory()
	if err != nil {
		return err
	}
	big, err := s.newDaemon(bin, "big")
	if err != nil {
		return err
	}
	if err := fill(big.StateDir, list); err != nil {
		return err
	}
	if err := big.Start(); err != nil {
		return err
	}
	defer func() { _ = big.Kill() }()
	kernelStarted, err := testenv.KernelMemory()
	if err != nil {
		return err
	}
	if err := add(small, list.prefixes[:1000]); err != nil {
		return err
	}
	if err := s.measureAdds(small, big); err != nil {
		return err
	}
	if err := s.measureStartup(big); err != nil {
		return err
	}
	kernelAfter, err := settledKernelMemory(kernelStarted)
	if err != nil {
		return err
	}
	d.Kernel, d.Restarted = single(float64(kernelStarted-kernelBefore)/1e6), single(float64(kernelAfter-kernelBefore)/1e6)
	s.say("  resident %s MB (peak %s), kernel %s MB, after restarts %s MB", d.Resident, d.ResidentPeak, d.Kernel, d.Restarted)
	if err := big.Stop(); err != nil {
		return err
	}
	if err := s.measureLoads(small, list); err != nil {
		return err
	}
	return small.Stop()
}

// newDaemon describes a daemon in a network of its own.
func (s *session) newDaemon(bin, name string) (*testenv.Daemon, error) {
	n, err := s.lab.Namespace("node-" + name)
	if err != nil {
		return nil, err
	}
	other, err := s.lab.Namespace("peer-" + name)
	if err != nil {
		return nil, err
	}
	if err := testenv.Connect(n, "eth0", other, "eth0"); err != nil {
		return nil, err
	}
	return testenv.NewDaemon(bin, n, s.bpffs, name), nil
}

// fill puts hosts into the lists of a daemon that does not run.
func fill(stateDir string, list blocklist) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("fill lists: %w", err)
	}
	st, err := store.Open(store.Options{Dir: stateDir}, nil)
	if err != nil {
		return fmt.Errorf("fill lists: %w", err)
	}
	for part := range slices.Chunk(list.prefixes, 50_000) {
		b := lists.Batch{By: "bench", Via: "bench"}
		for _, p := range part {
			id, _ := lists.PrefixID(p)
			b.Ops = append(b.Ops, lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}})
		}
		if _, err := st.Apply(context.Background(), b); err != nil {
			return errors.Join(fmt.Errorf("fill lists: %w", err), st.Close())
		}
	}
	return st.Close()
}

// settledKernelMemory is the kernel's memory once it is down to a figure, or after some seconds.
func settledKernelMemory(figure int64) (now int64, err error) {
	_ = testenv.Poll(10*time.Second, func() error {
		if now, err = testenv.KernelMemory(); err == nil && now > figure {
			return errors.New("not yet")
		}
		return nil
	})
	return now, err
}

// settled waits until the kernel frees no memory any more, half a minute at most.
func settled() error {
	const pause, noise = 2 * time.Second, 2 << 20
	before := int64(math.MaxInt64)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(pause) {
		now, err := testenv.KernelMemory()
		if err != nil || now > before-noise {
			return err
		}
		before = now
	}
	return nil
}

func add(d *testenv.Daemon, prefixes []netip.Prefix) error {
	ops := make([]control.Operation, len(prefixes))
	for i, p := range prefixes {
		ops[i] = control.Operation{Op: "add", List: "blacklist", Kind: "ip", Value: p.Addr().String()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := control.Client{Socket: d.Socket}
	if _, err := c.Apply(ctx, ops); err != nil {
		return fmt.Errorf("add %d addresses: %w", len(ops), err)
	}
	return nil
}

// measureAdds adds one address at a time, to the daemons in turn, and appends to a file in between.
func (s *session) measureAdds(small, big *testenv.Daemon) error {
	var took [3][]time.Duration
	f, err := os.Create(filepath.Join(s.lab.Dir, "fsync"))
	if err != nil {
		return fmt.Errorf("measure fsync: %w", err)
	}
	defer f.Close()
	// 198.18.0.0/15 is for benchmarks: not in the list, which has at most a few of it.
	for i := range s.plan.adds {
		p := []netip.Prefix{netip.PrefixFrom(address(198<<24|18<<16|uint32(i)), 32)}
		steps := [3]func() error{
			func() error { return add(small, p) },
			func() error { return add(big, p) },
			func() error {
				_, err := f.Write(make([]byte, 4096))
				return errors.Join(err, f.Sync())
			},
		}
		for k, step := range steps {
			began := time.Now()
			if err := step(); err != nil {
				return err
			}
			took[k] = append(took[k], time.Since(began))
		}
	}
	d := s.report.Daemon
	d.AddSmall, d.AddBig, d.Fsync = spreadOf(took[0]), spreadOf(took[1]), spreadOf(took[2])
	s.say("  add one: p50 %.2f, p99 %.2f ms at 1 K; p50 %.2f, p99 %.2f ms at %d; fsync p50 %.2f, p99 %.2f ms",
		d.AddSmall.P50, d.AddSmall.P99, d.AddBig.P50, d.AddBig.P99, d.Entries, d.Fsync.P50, d.Fsync.P99)
	return nil
}

// measureLoads times what loads the same file of hosts into the daemon, nftables and ipset, one after the other.
func (s *session) measureLoads(d *testenv.Daemon, list blocklist) error {
	plain, err := s.plainFile(list)
	if err != nil {
		return err
	}
	defer os.Remove(plain)
	nftFile, err := s.nftFile(list)
	if err != nil {
		return err
	}
	defer os.Remove(nftFile)
	ipsetFile, err := s.ipsetFile(list)
	if err != nil {
		return err
	}
	defer os.Remove(ipsetFile)
	var ours, nft, set []float64
	for i := range s.plan.loads {
		took, err := importInto(d, plain, len(list.prefixes))
		if err != nil {
			return err
		}
		ours = append(ours, milliseconds(took))
		n, err := s.lab.Namespace(fmt.Sprintf("load%d", i))
		if err != nil {
			return err
		}
		other, err := s.lab.Namespace(fmt.Sprintf("unload%d", i))
		if err != nil {
			return err
		}
		if err := testenv.Connect(n, "eth0", other, "eth0"); err != nil {
			return err
		}
		began := time.Now()
		if err := command(n, "nft", "-f", nftFile); err != nil {
			return err
		}
		nft = append(nft, milliseconds(time.Since(began)))
		began = time.Now()
		if err := command(n, "ipset", "restore", "-file", ipsetFile); err != nil {
			return err
		}
		set = append(set, milliseconds(time.Since(began)))
		if err := errors.Join(command(n, "nft", "flush", "ruleset"), command(n, "ipset", "destroy")); err != nil {
			return err
		}
	}
	r := s.report.Daemon
	r.LoadImport, r.LoadNft, r.LoadIpset = figureOf(ours), figureOf(nft), figureOf(set)
	s.say("  load of %d hosts: import %s ms, nft -f %s ms, ipset restore %s ms", len(list.prefixes), r.LoadImport, r.LoadNft, r.LoadIpset)
	return nil
}

// importInto has an empty blacklist filled from a file by the command line, until the hosts are durable and enforced. What the
// list was before is freed by then.
func importInto(d *testenv.Daemon, file string, hosts int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := control.Client{Socket: d.Socket}
	if _, err := c.Apply(ctx, []control.Operation{{Op: "clear", List: "blacklist"}}); err != nil {
		return 0, fmt.Errorf("empty the blacklist: %w", err)
	}
	if err := settled(); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := d.Run("import", "blacklist", file); err != nil {
		return 0, err
	}
	took := time.Since(began)
	st, err := d.Status()
	if err == nil && (st.Entries["blacklist"] != hosts || st.Generation.Kernel != st.Generation.Store) {
		err = fmt.Errorf("import of %d hosts: %d are listed, generation %d of %d is enforced", hosts, st.Entries["blacklist"], st.Generation.Kernel, st.Generation.Store)
	}
	return took, err
}

// measureStartup restarts the daemon and reads its memory.
func (s *session) measureStartup(d *testenv.Daemon) error {
	var startup, resident, peak []float64
	for range s.plan.loads {
		if err := d.Stop(); err != nil {
			return err
		}
		began := time.Now()
		if err := d.Start(); err != nil {
			return err
		}
		startup = append(startup, milliseconds(time.Since(began)))
		// Once more of the daemon's work is in its memory.
		if err := add(d, []netip.Prefix{netip.MustParsePrefix("198.19.255.255/32")}); err != nil {
			return err
		}
		now, most, err := testenv.ResidentMemory(d.PID())
		if err != nil {
			return err
		}
		resident, peak = append(resident, now), append(peak, most)
	}
	side := s.report.Daemon
	side.Startup, side.Resident, side.ResidentPeak = figureOf(startup), figureOf(resident), figureOf(peak)
	s.say("  start to ready: %s ms", side.Startup)
	return nil
}
