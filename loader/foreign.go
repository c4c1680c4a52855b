package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
)

// foreignProgram describes the XDP program that somebody else attached to the device.
func foreignProgram(d device) error {
	name, ours := "without a name", ""
	if p, err := ebpf.NewProgramFromID(d.prog); err == nil {
		if info, err := p.Info(); err == nil && info.Name != "" {
			name = strconv.Quote(info.Name)
			if slices.Contains([]string{bpf.ProgEth, bpf.ProgEthFrags, bpf.ProgL3, bpf.ProgL3Frags}, info.Name) {
				ours = "If a portcullis with another pin directory put it there: portcullis detach --pin-dir DIR. "
			}
		}
		_ = p.Close()
	}
	holder := "no process holds it open: it is pinned, or was attached by ip link"
	if holders := holders(d.prog); len(holders) > 0 {
		holder = "held open by " + strings.Join(holders, ", ")
	}
	return fmt.Errorf("attach to %s: %w: id %d, %s, %s mode, %s; it is left alone. "+
		"%sStop what put it there, or take it off: ip link set dev %s xdp off (bpftool link detach if it is held by a link)",
		d.name, ErrForeignProgram, d.prog, name, d.mode, holder, ours, d.name)
}

// holders names the processes that have the program, or a link to it, open: "xdp-filter (pid 12)".
func holders(id ebpf.ProgramID) []string {
	holds := regexp.MustCompile(fmt.Sprintf(`(?m)^prog_id:\t%d$`, id))
	var out []string
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, proc := range procs {
		if !holdsOpen(proc, holds) {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(proc, "comm")) // empty if the process has ended since
		out = append(out, fmt.Sprintf("%q (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(proc)))
	}
	return out
}

func holdsOpen(proc string, holds *regexp.Regexp) bool {
	fds, err := os.ReadDir(filepath.Join(proc, "fdinfo"))
	if err != nil {
		return false // ended, or not ours to look into
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil || !strings.HasPrefix(target, "anon_inode:bpf") {
			continue
		}
		info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name()))
		if err == nil && holds.Match(info) {
			return true
		}
	}
	return false
}
