package scenario

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/portcullis/portcullis/testenv"
)

// install runs deploy/install.sh with everything below dir.
func install(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := built(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(top(t), "deploy", "install.sh"), args...)
	cmd.Env = append(os.Environ(), "DESTDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("install.sh %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func top(t *testing.T) string {
	t.Helper()
	dir, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tree lists the files below dir, with their modes.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		all = append(all, info.Mode().String()+" "+strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestInstallAndUninstall(t *testing.T) {
	dir := t.TempDir()
	install(t, dir)
	want := []string{
		"-rw-r--r-- /etc/portcullis/portcullis.toml",
		"-rw-r--r-- /usr/local/lib/systemd/system/portcullis.service",
		"-rw-r--r-- /usr/local/lib/systemd/system/portcullis.socket",
		"-rw-r--r-- /usr/local/share/bash-completion/completions/portcullis",
		"-rw-r--r-- /usr/local/share/doc/portcullis/caddy/Caddyfile",
		"-rw-r--r-- /usr/local/share/doc/portcullis/envoy/envoy.yaml",
		"-rw-r--r-- /usr/local/share/doc/portcullis/haproxy/haproxy.cfg",
		"-rw-r--r-- /usr/local/share/doc/portcullis/haproxy/portcullis.spoe",
		"-rw-r--r-- /usr/local/share/doc/portcullis/nginx/portcullis-ask.conf",
		"-rw-r--r-- /usr/local/share/doc/portcullis/nginx/portcullis-http.conf",
		"-rw-r--r-- /usr/local/share/doc/portcullis/nginx/portcullis-server.conf",
		"-rw-r--r-- /usr/local/share/doc/portcullis/nginx/site.conf",
		"-rw-r--r-- /usr/local/share/doc/portcullis/portcullis.toml",
		"-rw-r--r-- /usr/local/share/doc/portcullis/traefik/portcullis.yml",
		"-rw-r--r-- /usr/local/share/fish/vendor_completions.d/portcullis.fish",
		"-rw-r--r-- /usr/local/share/man/man1/portcullis.1",
		"-rw-r--r-- /usr/local/share/zsh/site-functions/_portcullis",
		"-rwxr-xr-x /opt/pingidentity/ase/bin/cli.sh",
		"-rwxr-xr-x /usr/local/bin/portcullis",
		"Lrwxrwxrwx /opt/pingidentity/ase/bin/portcullis",
	}
	if got := tree(t, dir); !slices.Equal(got, want) {
		t.Fatalf("installed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"man/man1/portcullis.1", "bash-completion/completions/portcullis"} {
		text, err := os.ReadFile(filepath.Join(dir, "usr/local/share", name))
		if err != nil || !bytes.Contains(text, []byte("add_blacklist")) {
			t.Errorf("%s does not speak of add_blacklist (%v)", name, err)
		}
	}

	// Installing again keeps what the admin wrote.
	config := filepath.Join(dir, "etc/portcullis/portcullis.toml")
	if err := os.WriteFile(config, []byte("interfaces = [\"eth7\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	install(t, dir)
	if text, err := os.ReadFile(config); err != nil || !bytes.Contains(text, []byte("eth7")) {
		t.Errorf("the configuration was overwritten: %s (%v)", text, err)
	}
	install(t, dir, "uninstall")
	if got := tree(t, dir); len(got) != 1 || !strings.HasSuffix(got[0], "/etc/portcullis/portcullis.toml") {
		t.Errorf("left after uninstall: %q, want the configuration alone", got)
	}
}

// TestInstalledLayoutWorks runs the seed's path against a daemon that reads the installed configuration and holds only
// the capabilities of the unit.
func TestInstalledLayoutWorks(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	install(t, dir)
	// The link beside cli.sh names the final place, which is not below DESTDIR.
	link := filepath.Join(dir, "opt/pingidentity/ase/bin/portcullis")
	if to, err := os.Readlink(link); err != nil || to != "/usr/local/bin/portcullis" {
		t.Fatalf("beside cli.sh: %q (%v)", to, err)
	}
	r.must(os.Remove(link))
	r.must(os.Symlink(filepath.Join(dir, "usr/local/bin/portcullis"), link))
	r.daemon.Bin = filepath.Dir(link)
	r.daemon.Args = []string{"--config", filepath.Join(dir, "etc/portcullis/portcullis.toml")}
	r.daemon.Wrap = []string{"setpriv", "--no-new-privs", "--bounding-set", "-all," + unitCapabilities(t)}

	r.must(r.daemon.Start())
	r.cli("-u", "admin", "-p", "admin", "add_blacklist", "ip", r.Client.IPv4.String())
	r.blocked(r.Client, ipv4...)
	r.must(r.Gateway.Delete("eth0"))
	r.must(r.Uplink())
	testenv.Eventually(t, settle, "protected again", func() error { return r.Blocked(r.Client, "ping") })
	r.must(r.daemon.Kill())
	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
}

// unitCapabilities reads CapabilityBoundingSet of the unit, in setpriv's words.
func unitCapabilities(t *testing.T) string {
	t.Helper()
	var words []string
	for _, c := range strings.Fields(unitSays(t, "CapabilityBoundingSet")) {
		words = append(words, "+"+strings.ToLower(strings.TrimPrefix(c, "CAP_")))
	}
	return strings.Join(words, ",")
}

// unitSays returns what the unit sets a key to.
func unitSays(t *testing.T, key string) string {
	t.Helper()
	unit, err := os.ReadFile(filepath.Join(top(t), "deploy", "portcullis.service"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(unit)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("the unit does not say %s", key)
	return ""
}

// TestUnitPermitsEverySystemCall traces a daemon through its life and looks for calls that the unit's filter forbids.
func TestUnitPermitsEverySystemCall(t *testing.T) {
	r := newRig(t)
	permitted := make(map[string]bool)
	for _, word := range strings.Fields(unitSays(t, "SystemCallFilter")) {
		permit(t, permitted, word)
	}
	trace := filepath.Join(r.Lab.Dir, "trace")
	// -D: the daemon is our child, not strace. exec itself is judged before the filter is in place.
	r.daemon.Wrap = []string{"strace", "-D", "-f", "-q", "-A", "-o", trace}
	r.must(r.daemon.Start())
	r.cli("-u", "admin", "-p", "admin", "add_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "--for", "1s", "ip", r.Another.IPv4.String())
	r.cli("view_blacklist", "all")
	r.cli("history")
	r.must(r.Gateway.Delete("eth0"))
	r.must(r.Uplink())
	testenv.Eventually(t, 5*settle, "protected again", func() error { return r.Blocked(r.Client, "ping") })
	r.must(r.daemon.Stop())
	r.must(r.daemon.Start()) // finds pins, lists and users there
	r.must(r.daemon.Stop())

	text, err := os.ReadFile(trace)
	r.must(err)
	calls := regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\(`).FindAllStringSubmatch(string(text), -1)
	if len(calls) < 1000 {
		t.Fatalf("only %d calls traced", len(calls))
	}
	forbidden := make(map[string]bool)
	for _, c := range calls {
		if !permitted[c[1]] && c[1] != "execve" {
			forbidden[c[1]] = true
		}
	}
	if len(forbidden) > 0 {
		t.Errorf("the unit's SystemCallFilter forbids %v", slices.Sorted(maps.Keys(forbidden)))
	}
}

// permit adds a call, or every call of a group as systemd defines it.
func permit(t *testing.T, set map[string]bool, word string) {
	t.Helper()
	if !strings.HasPrefix(word, "@") {
		set[word] = true
		return
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", word).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", word, err)
	}
	for line := range strings.Lines(string(out)) {
		if w := strings.TrimSpace(line); w != "" && w != word && !strings.HasPrefix(w, "#") {
			permit(t, set, w)
		}
	}
}

// TestUnitIsSound has systemd read the installed units.
func TestUnitIsSound(t *testing.T) {
	dir := t.TempDir()
	install(t, dir)
	path := filepath.Join(dir, "usr/local/lib/systemd/system/portcullis.service")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// systemd looks whether the program is there: below DESTDIR, here.
	text = bytes.ReplaceAll(text, []byte("ExecStart=/usr"), []byte("ExecStart="+dir+"/usr"))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", path, strings.TrimSuffix(path, "service")+"socket").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
