package control_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

// writeUntilKilled serves in a directory and makes changes from four sides, printing each that was answered.
func writeUntilKilled(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	s, err := control.New(control.Options{Backend: controltest.NewBackend(), StateDir: dir})
	fail(err)
	l, err := control.Listen(filepath.Join(dir, "s"))
	fail(err)
	go s.Serve(context.Background(), l)
	var mu sync.Mutex
	var all sync.WaitGroup
	for side := range 4 {
		all.Go(func() {
			c := &control.Client{Socket: filepath.Join(dir, "s"), User: "admin", Password: "admin"}
			for n := 0; ; n++ {
				name := fmt.Sprintf("pid%d-side%d-%d", os.Getpid(), side, n)
				_, err := c.Apply(context.Background(), []control.Operation{{Op: "add", List: "blacklist", Kind: "username", Value: name}})
				fail(err)
				mu.Lock()
				fmt.Println(name)
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// TestAuditSurvivesKill kills a daemon at random moments: every change that was answered is in the log, and the chain
// holds over all lives.
func TestAuditSurvivesKill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir, err := os.MkdirTemp("", "kill")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var answered []string
	for range 8 {
		answered = append(answered, runUntilKilled(t, dir, 1+random.IntN(60))...)
	}
	text, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range answered {
		if !strings.Contains(string(text), "username="+name+" ") {
			t.Errorf("%s was answered and is not in the audit log", name)
		}
	}
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	lines, err := c.VerifyAudit(context.Background())
	if err != nil || lines < len(answered) {
		t.Errorf("%d lines hold of %d answered: %v", lines, len(answered), err)
	}
	t.Logf("%d changes answered in 8 lives, %d lines hold", len(answered), lines)
}

// runUntilKilled returns what one life answered before it was killed after so many lines.
func runUntilKilled(t *testing.T, dir string, after int) (answered []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "CONTROL_TEST_AUDIT_WRITER="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		if strings.HasPrefix(in.Text(), "error:") {
			t.Fatal(in.Text())
		}
		if answered = append(answered, in.Text()); len(answered) == after {
			cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if ctx.Err() != nil {
		t.Fatal("the writer did not write in time")
	}
	return answered
}
