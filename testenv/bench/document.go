package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// files are what a run leaves in docs, by name: all made from the report and nothing else.
func (r *report) files() (map[string][]byte, error) {
	encoded, err := r.encode()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"bench.json":       encoded,
		"BENCHMARKS.md":    []byte(r.document()),
		"bench-lookup.svg": []byte(r.lookupChart().svg()),
		"bench-live.svg":   []byte(r.liveChart().svg()),
	}, nil
}

// write writes the files into a folder.
func (r *report) write(dir string) error {
	files, err := r.files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}

// document is BENCHMARKS.md.
func (r *report) document() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\n`make bench` wrote this page and the pictures from one run (figures: [bench.json](bench.json)). "+
		"Absolute figures move from machine to machine and from hour to hour; compare only within a run.\n\n")
	r.writeMachine(&b)
	r.writeRatios(&b)
	r.writeLosses(&b)
	b.WriteString("## How cost grows with the list\n\n![cost of a verdict](bench-lookup.svg)\n\n![packets a second](bench-live.svg)\n\n")
	r.writeLookups(&b)
	r.writeLive(&b)
	r.writeDaemon(&b)
	return b.String()
}

func (r *report) writeMachine(b *strings.Builder) {
	table(b, []string{"", ""}, [][]string{
		{"date", r.Date.Format("2006-01-02 15:04 MST")},
		{"commit", r.Commit},
		{"machine", fmt.Sprintf("%s, %d CPUs, %.1f GB", r.Machine, r.CPUs, r.MemoryGB)},
		{"kernel", r.Kernel},
		{"compared with", strings.Join(r.Peers, "; ")},
		{"modes in this build", strings.Join(r.Modes, ", ")},
		{"runs", fmt.Sprintf("%d each, after one that is discarded: median (min-max)", r.Runs)},
		{"took", fmt.Sprintf("%.0f s, plan %q, seed %d, load of the machine %s", r.Seconds, r.Plan, r.Seed, r.Load)},
	})
}

func (r *report) writeRatios(b *strings.Builder) {
	b.WriteString("## Ratios\n\n`make bench-check` fails beyond a floor, which leaves room for noise.")
	if len(r.Modes) == 1 {
		b.WriteString(" This build has no index over the tries yet: goals that compare it with mode lpm are not in the table.")
	}
	b.WriteString("\n\n")
	var rows [][]string
	for _, q := range r.Ratios {
		reached := "-"
		if q.Goal != 0 {
			reached = "yes"
			if !q.met(q.Goal) {
				reached = "**no**"
			}
		}
		rows = append(rows, []string{q.Name, digits(q.Value), q.bound(q.Goal), reached, q.bound(q.Floor)})
	}
	table(b, []string{"ratio", "seen", "goal", "reached", "floor"}, rows)
}

// writeLosses lists every comparison with a peer that we lose.
func (r *report) writeLosses(b *strings.Builder) {
	b.WriteString("## Where we lose\n\n")
	var rows [][]string
	for _, l := range r.Live {
		own, ok := r.live(l.List, l.Workload, ours(best(r)))
		if l.Missing != "" || !ok || !slices.Contains([]string{nftables, ipset, xdpFilter}, l.Receiver) || own.Rate.Median >= l.Rate.Median {
			continue
		}
		rows = append(rows, []string{
			fmt.Sprintf("live, %s, %s", l.List, l.Workload), l.Receiver, l.Rate.String() + " Mpps", own.Rate.String() + " Mpps",
			digits(l.Rate.Median / own.Rate.Median),
		})
	}
	if d := r.Daemon; d != nil {
		for _, peer := range []struct {
			name string
			took figure
		}{{"nft -f", d.LoadNft}, {"ipset restore", d.LoadIpset}} {
			if d.LoadImport.Median > peer.took.Median {
				rows = append(rows, []string{
					fmt.Sprintf("load of %d hosts", d.Entries), peer.name, peer.took.String() + " ms", d.LoadImport.String() + " ms",
					digits(d.LoadImport.Median / peer.took.Median),
				})
			}
		}
	}
	if len(rows) == 0 {
		b.WriteString("In this run no peer beat us.\n\n")
		return
	}
	table(b, []string{"measure", "peer", "the peer", "we, mode " + best(r), "times better"}, rows)
}

func (r *report) writeLookups(b *strings.Builder) {
	fmt.Fprintf(b, "## One verdict\n\nNanoseconds of CPU time a source, judged by the functions and maps of the real program in a loop in the kernel. "+
		"*Overlapped*: the CPU may work on several sources at once. *Dependent*: the next is known only after the verdict on the last, an atomic addition in between. "+
		"The loop around it is in every figure; alone it costs %s ns (IPv4)", r.LoopNs[0])
	if len(r.LoopNs) > 1 {
		fmt.Fprintf(b, " and %s ns (IPv6)", r.LoopNs[1])
	}
	b.WriteString(". A ring of 2^20 sources, gone through once.\n\n")
	var lines [][]string
	for _, l := range r.Lists {
		lines = append(lines, []string{l.Name, fmt.Sprint(l.Entries), l.Origin})
	}
	table(b, []string{"list", "entries", "origin"}, lines)
	lines = nil
	for _, w := range workloads4 {
		lines = append(lines, []string{w.name, w.about})
	}
	table(b, []string{"workload", "sources"}, lines)

	head := []string{"list", "workload", "dropped"}
	for _, m := range r.Modes {
		head = append(head, m+", overlapped", m+", dependent")
	}
	if len(r.Modes) > 1 {
		head = append(head, "times faster, overlapped", "dependent")
	}
	lines = nil
	for _, l := range r.Lookups {
		if l.Mode == r.Modes[0] {
			lines = append(lines, append([]string{l.List, l.Workload, fmt.Sprintf("%.1f %%", 100*l.Dropped)}, r.modeColumns(l)...))
		}
	}
	table(b, head, lines)
}

// modeColumns are the figures of all modes for what l measured in the first, and how much faster the last is.
func (r *report) modeColumns(l lookup) (columns []string) {
	last := l
	for _, m := range r.Modes {
		last, _ = r.lookup(l.List, l.Workload, m)
		columns = append(columns, last.Overlapped.String(), last.Dependent.String())
	}
	if len(r.Modes) > 1 {
		columns = append(columns, digits(l.Overlapped.Median/last.Overlapped.Median), digits(l.Dependent.Median/last.Dependent.Median))
	}
	return columns
}

// lookupLine is what is said of a workload while the run goes on.
func (r *report) lookupLine(list, workload string) string {
	l, _ := r.lookup(list, workload, r.Modes[0])
	var parts []string
	for _, m := range r.Modes {
		l, _ := r.lookup(list, workload, m)
		parts = append(parts, fmt.Sprintf("%s: overlapped %s, dependent %s ns", m, l.Overlapped, l.Dependent))
	}
	return fmt.Sprintf("%5.1f %% dropped  %s", 100*l.Dropped, strings.Join(parts, "  "))
}

func (r *report) writeLive(b *strings.Builder) {
	b.WriteString("## Packets a second\n\nMillions of 60-byte UDP packets a second from one veth to another, native XDP where it is XDP. " +
		"The sender (an XDP program on live frames, `testenv/generator`) and the receiver share one CPU, so the sender is in every figure and ratios are " +
		"smaller than those of the receivers alone. What is passed goes up the stack to a UDP socket that nobody reads. " +
		"A rate counts only if what came through is what the list says.\n\n")
	var lines [][]string
	names := []string{"list", "workload"}
	for _, c := range r.Receivers {
		lines = append(lines, []string{c.Name, c.About})
		names = append(names, c.Name)
	}
	table(b, []string{"receiver", "configuration"}, lines)
	lines = nil
	for i, l := range r.Live {
		if i > 0 && r.Live[i-1].List == l.List && r.Live[i-1].Workload == l.Workload {
			continue
		}
		line := []string{l.List, l.Workload}
		for _, name := range names[2:] {
			line = append(line, r.liveCell(l.List, l.Workload, name))
		}
		lines = append(lines, line)
	}
	table(b, names, lines)
	for _, l := range r.Live {
		if l.Missing != "" {
			fmt.Fprintf(b, "- %s, %s, %s: does not work here: %s\n", l.List, l.Workload, l.Receiver, strings.ReplaceAll(l.Missing, "\n", " "))
		}
	}
}

func (r *report) liveCell(list, workload, receiver string) string {
	if l, ok := r.live(list, workload, receiver); ok {
		return l.Rate.String()
	}
	return "-"
}

func (r *report) writeDaemon(b *strings.Builder) {
	d := r.Daemon
	if d == nil {
		return
	}
	fmt.Fprintf(b, "## The daemon\n\nTwo real daemons side by side, with 1 K and with %d hosts; calls by the client of the API on the unix socket. "+
		"An add is answered when it is durable and enforced. Kernel memory is the growth since before the daemon's start, as the memory cgroup counts it (without one: of the whole machine).\n\n", d.Entries)
	percentiles := func(s spread) string {
		return fmt.Sprintf("%s / %s / %s ms", digits(s.P50), digits(s.P99), digits(s.Max))
	}
	rows := [][]string{
		{fmt.Sprintf("add one address, 1 K in the list: p50 / p99 / max of %d", d.Adds), percentiles(d.AddSmall)},
		{fmt.Sprintf("add one address, %d in the list", d.Entries), percentiles(d.AddBig)},
		{"append 4 KiB to a file and fsync, same disk", percentiles(d.Fsync)},
	}
	if d.LoadImport.Median > 0 { // a run before this was measured has none
		rows = append(rows, [][]string{
			{fmt.Sprintf("load %d hosts from a file: import, until it is durable and enforced", d.Entries), d.LoadImport.String() + " ms"},
			{"the same hosts: nft -f (not durable)", d.LoadNft.String() + " ms"},
			{"the same hosts: ipset restore (not durable)", d.LoadIpset.String() + " ms"},
		}...)
	}
	table(b, []string{"measure", "figure"}, append(rows, [][]string{
		{fmt.Sprintf("start of the daemon until it enforces %d hosts", d.Entries), d.Startup.String() + " ms"},
		{"its resident memory then", d.Resident.String() + " MB"},
		{"at its highest", d.ResidentPeak.String() + " MB"},
		{"kernel memory after the first start", d.Kernel.String() + " MB"},
		{"kernel memory some seconds after the restarts, each of which fills the idle maps and empties the others", d.Restarted.String() + " MB"},
	}...))
}

// table writes a table of Markdown.
func table(b *strings.Builder, head []string, rows [][]string) {
	line := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	fmt.Fprintf(b, "|%s\n", strings.Repeat("---|", len(head)))
	for _, row := range rows {
		line(row)
	}
	b.WriteString("\n")
}
