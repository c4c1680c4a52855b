package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// oldest is the first kernel the programs load on.
const oldestMajor, oldestMinor = 5, 15

// checkHost refuses what could only fail later with a worse message: missing capabilities, an old kernel.
func checkHost() error {
	if err := checkKernel(); err != nil {
		return err
	}
	if missing := missingCapabilities(); len(missing) > 0 {
		return fmt.Errorf("load XDP program: %w: %s missing; run as root, or give the process these capabilities",
			ErrNotPermitted, strings.Join(missing, ", "))
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise RLIMIT_MEMLOCK: %w: %w", ErrNotPermitted, err)
	}
	return nil
}

func checkKernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("read kernel version: %w", err)
	}
	return tooOld(unix.ByteSliceToString(u.Release[:]))
}

func tooOld(release string) error {
	if !before(release, oldestMajor, oldestMinor) {
		return nil // a kernel that numbers otherwise is let try
	}
	return fmt.Errorf("%w: this is Linux %s, Linux %d.%d or newer is needed", ErrKernelTooOld, release, oldestMajor, oldestMinor)
}

// olderThan reports whether this kernel is.
func olderThan(major, minor int) bool {
	var u unix.Utsname
	return unix.Uname(&u) == nil && before(unix.ByteSliceToString(u.Release[:]), major, minor)
}

// before reports whether a release is surely older than another.
func before(release string, major, minor int) bool {
	var is, point int
	if _, err := fmt.Sscanf(release, "%d.%d", &is, &point); err != nil {
		return false
	}
	return is < major || is == major && point < minor
}

// missingCapabilities names what loading and attaching need and the process does not have.
func missingCapabilities() []string {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return nil // the kernel will say
	}
	has := func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	if has(unix.CAP_SYS_ADMIN) && has(unix.CAP_NET_ADMIN) {
		return nil
	}
	var missing []string
	for _, c := range []struct {
		number uint
		name   string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_PERFMON, "CAP_PERFMON"}} {
		if !has(c.number) {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// defaultBPFFS is where a bpf filesystem belongs; Open mounts one there if there is none.
const defaultBPFFS = "/sys/fs/bpf"

// makePinDir makes the pin directory (mode 0750), mounting a bpf filesystem on defaultBPFFS if it lies there.
func makePinDir(o Options) (pinDir, error) {
	path, err := filepath.Abs(o.PinDir)
	if err != nil {
		return pinDir{}, fmt.Errorf("find pin directory: %w", err)
	}
	if path == defaultBPFFS || strings.HasPrefix(path, defaultBPFFS+"/") {
		if err := mountBPFFS(o); err != nil {
			return pinDir{}, err
		}
	}
	above := path
	for !exists(above) && above != "/" {
		above = filepath.Dir(above)
	}
	if !onBPFFS(above) {
		return pinDir{}, fmt.Errorf("make pin directory %s: %w: choose one below %s, or mount one there with: mkdir -p %s && mount -t bpf bpf %s",
			path, ErrNoBPFFS, defaultBPFFS, path, path)
	}
	if strings.Contains(strings.TrimPrefix(path, above), ".") {
		return pinDir{}, fmt.Errorf("make pin directory %s: %w: a bpf filesystem takes no names with a dot", path, ErrNoBPFFS)
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return pinDir{}, fmt.Errorf("make pin directory: %w", permission(err))
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && (st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0) {
		o.Logger.Warn("others than this process's user may change the pins, and with them what is blocked",
			"pin_dir", path, "owner", st.Uid, "mode", fmt.Sprintf("%#o", st.Mode&0o7777))
	}
	return pinDir{path}, nil
}

func mountBPFFS(o Options) error {
	if onBPFFS(defaultBPFFS) {
		return nil
	}
	err := unix.Mount("bpf", defaultBPFFS, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "mode=0700")
	if err != nil {
		return fmt.Errorf("mount bpf filesystem on %s: %w: %w; mount it with: mount -t bpf bpf %s",
			defaultBPFFS, ErrNoBPFFS, permission(err), defaultBPFFS)
	}
	o.Logger.Info("mounted a bpf filesystem", "on", defaultBPFFS)
	ours, err1 := os.Readlink("/proc/self/ns/mnt")
	first, err2 := os.Readlink("/proc/1/ns/mnt")
	if err1 == nil && err2 == nil && ours != first {
		o.Logger.Warn("this is not the host's mount namespace (ip netns exec and containers make their own): "+
			"pins end with it, and with them enforcement; use nsenter --net=/run/netns/NAME instead", "on", defaultBPFFS)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func onBPFFS(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && uint32(fs.Type) == unix.BPF_FS_MAGIC
}

// permission adds ErrNotPermitted to the kernel's EPERM and EACCES.
func permission(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %w (run as root)", ErrNotPermitted, err)
	}
	return err
}
