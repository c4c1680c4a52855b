package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestImportMillion imports a million addresses through the command line and prints how long it takes until they are
// durable and enforced, beside nft -f of the same list. The bound is several times what an idle machine takes.
func TestImportMillion(t *testing.T) {
	const n = 1_000_000
	lab := testenv.New(t)
	bpffs, err := lab.MountBPF()
	if err != nil {
		t.Fatal(err)
	}
	inside, err := lab.Namespace("million")
	if err != nil {
		t.Fatal(err)
	}
	outside, err := lab.Namespace("million-out")
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.Connect(inside, "eth0", outside, "eth0"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain, rules := filepath.Join(dir, "list"), filepath.Join(dir, "rules.nft")
	writeMillion(t, n, plain, rules)

	d := testenv.NewDaemon(binary(t), inside, bpffs, "million")
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Kill() })
	run := func(name string, args ...string) (string, time.Duration) {
		start := time.Now()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %.500s", name, err, out)
		}
		return strings.TrimSpace(string(out)), time.Since(start)
	}
	portcullis := filepath.Join(binary(t), "portcullis")
	out, ours := run(portcullis, "--socket", d.Socket, "import", "blacklist", plain)
	if out != fmt.Sprintf("Import: %d added, 0 updated, 0 already there", n) {
		t.Fatal(out)
	}
	_, nft := run("nsenter", "--net="+inside.Path, "nft", "-f", rules)
	t.Logf("%d addresses: import %v, nft -f %v, ratio %.2f", n, ours.Round(time.Millisecond), nft.Round(time.Millisecond), ours.Seconds()/nft.Seconds())
	t.Logf("the daemon's memory: %s", memory(t, d.PID()))
	out, again := run(portcullis, "--socket", d.Socket, "import", "blacklist", plain)
	t.Logf("the same again, nothing to change: %v", again.Round(time.Millisecond))
	if out != fmt.Sprintf("Import: 0 added, 0 updated, %d already there", n) {
		t.Fatal(out)
	}
	if ours > 30*time.Second {
		t.Errorf("import took %v", ours)
	}
}

// memory is what /proc says of a process's resident memory, now and at most.
func memory(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "VmRSS:") || strings.HasPrefix(line, "VmHWM:") {
			found = append(found, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(found, ", ")
}

// writeMillion writes n different addresses as a plain list, and as a ruleset with an nft set of them, made in that size: it
// is the quicker way for nft, which need not grow it.
func writeMillion(t *testing.T, n int, plain, rules string) {
	t.Helper()
	files := [2]*bufio.Writer{}
	for i, path := range []string{plain, rules} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = bufio.NewWriterSize(f, 1<<20)
		defer files[i].Flush()
	}
	fmt.Fprintf(files[1], "table inet million {\n set bad {\n type ipv4_addr\n size %d\n elements = {\n", n)
	seen := make(map[uint32]bool, n)
	rnd := rand.New(rand.NewPCG(7, 7))
	for len(seen) < n {
		v := 11<<24 + rnd.Uint32N(0x60000000)
		if seen[v] || v>>24 == 127 {
			continue
		}
		seen[v] = true
		a := fmt.Sprintf("%d.%d.%d.%d", v>>24, v>>16&255, v>>8&255, v&255)
		fmt.Fprintln(files[0], a)
		fmt.Fprintln(files[1], a+",")
	}
	fmt.Fprint(files[1], "}\n }\n}\n")
}
