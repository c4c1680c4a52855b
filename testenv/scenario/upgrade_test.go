package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// anotherLayout builds the binary as it would be if the layout of the maps had another number, and returns its folder.
func (r *rig) anotherLayout() (bin string) {
	r.t.Helper()
	source := filepath.Join(top(r.t), "bpf", "portcullis_bpfel.go")
	text, err := os.ReadFile(source)
	r.must(err)
	changed := regexp.MustCompile(`(LAYOUT_VERSION\s+portcullisLayout = )\d+`).ReplaceAll(text, []byte("${1}4711"))
	if bytes.Equal(text, changed) {
		r.t.Fatalf("%s does not say LAYOUT_VERSION", source)
	}
	bin = filepath.Join(r.Lab.Dir, "other")
	r.must(os.Mkdir(bin, 0o700))
	r.must(os.WriteFile(filepath.Join(bin, "bpfel"), changed, 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: filepath.Join(bin, "bpfel")}})
	r.must(err)
	r.must(os.WriteFile(filepath.Join(bin, "overlay"), overlay, 0o600))
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", filepath.Join(bin, "overlay"), "-o", bin, "./cmd/portcullis")
	build.Dir = top(r.t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		r.t.Fatalf("build another layout: %v\n%s", err, out)
	}
	script, err := os.ReadFile(filepath.Join(r.daemon.Bin, "cli.sh"))
	r.must(err)
	r.must(os.WriteFile(filepath.Join(bin, "cli.sh"), script, 0o700))
	return bin
}

// TestGaplessUpgrades exchanges the daemon, and with it the program, under traffic: for one with another program, for one
// whose maps have another layout, and for one whose maps have another capacity.
func TestGaplessUpgrades(t *testing.T) {
	r := newRig(t)
	config := filepath.Join(r.Lab.Dir, "upgrade.toml")
	r.daemon.Args = []string{"--config", config}
	bins := []string{r.daemon.Bin, r.anotherLayout()}
	kinds := []struct {
		name, config string
		bin          int
	}{
		{"the first", "", 0},
		{"another program", `lookup = "lpm"`, 0},
		{"another layout", "", 1},
		{"another layout and program", `lookup = "lpm"`, 1},
		{"the first layout again", "", 0},
		{"another capacity", "capacity = 100000", 0},
	}
	begin := func(i int) {
		t.Helper()
		k := kinds[i%len(kinds)]
		r.must(os.WriteFile(config, []byte(k.config+"\n"), 0o600))
		r.daemon.Bin = bins[k.bin]
		r.must(r.daemon.Start())
	}
	begin(0)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "ip", "2001:db8:1::/64")
	r.cli("add_whitelist", "ip", r.Another.IPv4.String())
	before := r.packets()

	count, traffic := r.count(), r.flood(100*time.Microsecond)
	upgrades := times(2*len(kinds), 1000)
	began := time.Now()
	last, err := r.Gateway.Program("eth0")
	r.must(err)
	for i := range upgrades {
		if i%2 == 0 {
			r.must(r.daemon.Kill())
		} else {
			r.must(r.daemon.Stop())
		}
		begin(i + 1)
		now, err := r.Gateway.Program("eth0")
		r.must(err)
		if now == last || now == 0 {
			t.Fatalf("upgrade %d: program %d, then %d", i, last, now)
		}
		last = now
		if i%100 == 99 {
			t.Logf("%d upgrades, %v", i+1, time.Since(began).Round(time.Second))
		}
	}
	t.Logf("%d upgrades in %v, two of six to another layout, two to another capacity", upgrades, time.Since(began).Round(time.Second))
	r.expectExact(traffic, count, fmt.Sprintf("%d upgrades", upgrades))
	r.expectDropped(before, traffic)
	r.cleanStatus()
	for _, name := range strings.Fields(r.pins()) {
		if strings.HasPrefix(name, "staging") {
			t.Errorf("left: %s", name)
		}
	}
}

// expectDropped fails unless the drop counters of eth0 moved by exactly what the flood sent of listed clients.
func (r *rig) expectDropped(before map[string]uint64, f *flood) {
	r.t.Helper()
	var dropped uint64
	for name, n := range r.packets() {
		if strings.Contains(name, " drop_") {
			dropped += n - before[name]
		}
	}
	if dropped != f.listed {
		r.t.Errorf("the kernel counted %d drops, of %d frames of listed clients", dropped, f.listed)
	}
}

// cleanStatus waits until the daemon finds nothing wrong, and kernel and store agree.
func (r *rig) cleanStatus() {
	r.t.Helper()
	testenv.Eventually(r.t, 10*time.Second, "nothing is degraded", func() error {
		s, err := r.daemon.Status()
		if err == nil && (len(s.Degraded) > 0 || s.Generation.Kernel != s.Generation.Store) {
			err = fmt.Errorf("degraded %q, generations %+v", s.Degraded, s.Generation)
		}
		return err
	})
}
