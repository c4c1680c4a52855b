package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names of what a lab leaves on the host while it lives: the directory prefix+pid-random in the temporary directory
// and in it the lock file and the namespaces.
const (
	prefix   = "portcullis-lab-"
	lockName = "lock"
	nsDir    = "ns"
)

// lockTemp keeps other processes from sweeping a lab that has its directory but not yet its lock.
func lockTemp() (unlock func(), err error) {
	d, err := os.Open(os.TempDir())
	if err == nil {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", os.TempDir(), err)
	}
	return func() { d.Close() }, nil
}

// Sweep removes the labs of processes that died without closing them.
func Sweep() error {
	unlock, err := lockTemp()
	if err != nil {
		return err
	}
	defer unlock()
	return sweep(dead)
}

// sweepOwn removes the labs of this process, in use or not: it is about to die.
func sweepOwn() {
	unlock, err := lockTemp()
	if err != nil {
		return
	}
	defer unlock()
	own := fmt.Sprintf("%s%d-", prefix, os.Getpid())
	_ = sweep(func(dir string) bool { return strings.HasPrefix(filepath.Base(dir), own) })
}

// dead reports whether the process that made the lab is gone, and its lock with it.
func dead(dir string) bool {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return true // lockTemp is held: nobody is between making the directory and the lock
	}
	if err != nil {
		return false
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

func sweep(gone func(dir string) bool) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if gone(dir) {
			errs = append(errs, remove(dir))
		}
	}
	return errors.Join(errs...)
}

// remove ends the processes in the namespaces of the lab, unmounts all below its directory and deletes it.
func remove(dir string) error {
	inodes := make(map[uint64]bool)
	files, _ := filepath.Glob(filepath.Join(dir, nsDir, "*"))
	for _, f := range files {
		var st unix.Stat_t
		// A file on which no namespace is mounted (yet) is an ordinary inode: its number means nothing.
		if unix.Stat(f, &st) == nil && isNamespace(f) {
			inodes[st.Ino] = true
		}
	}
	if err := killAll(inodes); err != nil {
		return err
	}
	_ = os.Remove(traceInstance(dir)) // if there is one
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	return nil
}

func isNamespace(file string) bool {
	var st unix.Statfs_t
	return unix.Statfs(file, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// killAll ends every process that lives in one of the network namespaces, and waits until they are gone.
func killAll(inodes map[uint64]bool) error {
	if len(inodes) == 0 {
		return nil
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		left, err := processesIn(inodes)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes %v of the lab: still there after 5s", left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		pause()
	}
}

// processesIn lists other processes (not zombies: those have no namespace any more) in these namespaces.
func processesIn(inodes map[uint64]bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) == nil && inodes[st.Ino] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// mountsBelow lists mount points under dir in the order in which they were made.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var points []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	return points, nil
}
