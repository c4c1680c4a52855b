package testenv

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ResidentMemory of a process now and at its highest, in MB (10^6 bytes).
func ResidentMemory(pid int) (now, peak float64, err error) {
	values, err := Kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS", "VmHWM")
	if err != nil {
		return 0, 0, err
	}
	return float64(values[0]) / 1e6, float64(values[1]) / 1e6, nil
}

// KernelMemory is what the kernel holds for the processes of our memory cgroup, in bytes: objects, not the slabs they
// are in, which the kernel keeps for a while. Where the kernel does not count it, what the whole machine cannot reclaim.
func KernelMemory() (int64, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, fmt.Errorf("read kernel memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controller, path, _ := strings.Cut(rest, ":")
		switch controller {
		case "memory": // cgroup v1
			used, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/memory", path, "memory.kmem.usage_in_bytes"))
			if n, parseErr := strconv.ParseInt(strings.TrimSpace(string(used)), 10, 64); err == nil && parseErr == nil {
				return n, nil
			}
		case "":
			stat, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", path, "memory.stat"))
			for line := range strings.Lines(string(stat)) {
				var n int64
				if _, err := fmt.Sscanf(line, "kernel %d", &n); err == nil {
					return n, nil
				}
			}
		}
	}
	values, err := Kilobytes("/proc/meminfo", "SUnreclaim", "VmallocUsed", "Percpu")
	if err != nil {
		return 0, err
	}
	return values[0] + values[1] + values[2], nil
}

// Kilobytes reads lines "Name: 12 kB" of a file and returns bytes.
func Kilobytes(path string, names ...string) ([]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read memory: %w", err)
	}
	defer f.Close()
	values := make([]int64, len(names))
	found := 0
	for scan := bufio.NewScanner(f); scan.Scan(); {
		name, rest, _ := strings.Cut(scan.Text(), ":")
		i := slices.Index(names, name)
		if i < 0 {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read memory: %s: %w", path, err)
		}
		values[i] = n * 1024
		found++
	}
	if found != len(names) {
		return nil, fmt.Errorf("read memory: %s has not all of %q", path, names)
	}
	return values, nil
}
