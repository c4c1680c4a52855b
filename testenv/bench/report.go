package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/testenv"
)

// report is all that a run found out; docs/bench.json holds it.
type report struct {
	Plan     string    `json:"plan"`
	Date     time.Time `json:"date"`
	Seconds  float64   `json:"seconds"`
	Commit   string    `json:"commit"`
	Machine  string    `json:"machine"`
	CPUs     int       `json:"cpus"`
	MemoryGB float64   `json:"memory_gb"`
	Kernel   string    `json:"kernel"`
	Peers    []string  `json:"peers"` // versions
	Load     string    `json:"load"`  // of the machine when the run began and ended
	Runs     int       `json:"runs"`
	Seed     uint64    `json:"seed"`
	Modes    []string  `json:"modes"`

	Lists []listed `json:"lists"`
	// LoopNs is the loop alone, for IPv4 and IPv6: it is in every cost of a lookup.
	LoopNs    []figure    `json:"loop_ns"`
	Lookups   []lookup    `json:"lookups"`
	Receivers []described `json:"receivers"`
	Live      []live      `json:"live"`
	Daemon    *daemonSide `json:"daemon,omitempty"`
	Ratios    []ratio     `json:"ratios"`
}

// described is a receiver of live frames. Passes: it passes everything.
type described struct {
	Name   string `json:"name"`
	About  string `json:"about"`
	Passes bool   `json:"passes,omitempty"`
}

// listed describes a list that was measured with.
type listed struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Origin  string `json:"origin"`
}

func newReport(root string, p plan, seed uint64) (*report, error) {
	r := &report{Plan: p.name, Date: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Runs: p.runs, Seed: seed}
	for _, m := range modes {
		r.Modes = append(r.Modes, m.name)
	}
	for _, c := range p.receivers() {
		r.Receivers = append(r.Receivers, described{c.name, c.about, c.passes})
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read kernel version: %w", err)
	}
	r.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	memory, err := testenv.Kilobytes("/proc/meminfo", "MemTotal")
	if err != nil {
		return nil, err
	}
	r.MemoryGB = float64(memory[0]/1e7) / 100
	if r.Machine, err = processor(); err != nil {
		return nil, err
	}
	git := exec.Command("git", "describe", "--always", "--dirty")
	git.Dir = root
	if out, err := git.Output(); err == nil {
		r.Commit = strings.TrimSpace(string(out))
	} else {
		r.Commit = "unknown"
	}
	for _, name := range []string{"nftables", "ipset", "iptables", "xdp-tools"} {
		version := "not installed"
		if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output(); err == nil {
			version = string(out)
		}
		r.Peers = append(r.Peers, name+" "+version)
	}
	r.Load = loadAverage()
	return r, nil
}

// processor is the model's name as /proc/cpuinfo has it.
func processor() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("read processor: %w", err)
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		if name, value, ok := strings.Cut(scan.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return runtime.GOARCH, nil
}

// loadAverage is that of the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func (r *report) lookup(list, workload, mode string) (lookup, bool) {
	for _, l := range r.Lookups {
		if l.List == list && l.Workload == workload && l.Mode == mode {
			return l, true
		}
	}
	return lookup{}, false
}

func (r *report) live(list, workload, receiver string) (live, bool) {
	for _, l := range r.Live {
		if l.List == list && l.Workload == workload && l.Receiver == receiver && l.Missing == "" {
			return l, true
		}
	}
	return live{}, false
}

// encode writes the report as JSON.
func (r *report) encode() ([]byte, error) {
	out, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	return append(out, '\n'), nil
}

// readReport reads what encode wrote.
func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	r := new(report)
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	return r, nil
}
