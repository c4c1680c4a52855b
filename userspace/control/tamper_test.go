package control

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestAuditTampering changes the log in every way the chain must notice, while the daemon runs and while it does not.
func TestAuditTampering(t *testing.T) {
	editLog := func(edit func([]string) []string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { rewrite(t, filepath.Join(dir, auditFile), edit) }
	}
	for _, tt := range []struct {
		name   string
		tamper func(*testing.T, string)
		want   string // in the error, after a restart
	}{
		{"edit", editLog(func(l []string) []string { l[3] = strings.Replace(l[3], "n=3", "n=9", 1); return l }), "audit.log line 4 "},
		{"edit last", editLog(func(l []string) []string { l[9] += "x"; return l }), "audit.log line 10 "},
		{"remove", editLog(func(l []string) []string { return slices.Delete(l, 4, 5) }), "audit.log line 5 "},
		{"remove first", editLog(func(l []string) []string { return l[1:] }), "audit.log line 1 "},
		{"swap", editLog(func(l []string) []string { l[5], l[6] = l[6], l[5]; return l }), "audit.log line 6 "},
		{"put in", editLog(func(l []string) []string { return slices.Insert(l, 2, l[2]) }), "audit.log line 4 "},
		{"cut", editLog(func(l []string) []string { return l[:7] }), "audit.log line 8 "},
		{"empty", editLog(func([]string) []string { return nil }), "audit.log line 1 "},
		{"huge line", editLog(func(l []string) []string { l[0] = strings.Repeat("x", 1<<20); return l }), "audit.log line 1 "},
		{"remove log", func(t *testing.T, dir string) { remove(t, dir, auditFile) }, "line 1 "},
		{"remove chain", func(t *testing.T, dir string) { remove(t, dir, chainFile) }, "audit.log line 1 cannot be checked: the chain was lost"},
		{"edit chain", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, chainFile), func(l []string) []string { l[3] = strings.Repeat("0", 64); return l })
		}, "audit.log line 3 "},
		{"chain is no chain", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, chainFile), func([]string) []string { return []string{"hello"} })
		}, "no beginning"},
	} {
		t.Run(tt.name+"/stopped", func(t *testing.T) {
			dir, clock := t.TempDir(), newTestClock()
			a := testAudit(t, dir, clock.Now)
			writeLines(t, a, 0, 10)
			if err := a.close(); err != nil {
				t.Fatal(err)
			}
			tt.tamper(t, dir)
			b := testAudit(t, dir, clock.Now)
			if b.broken() == "" {
				t.Error("open did not notice")
			}
			writeLines(t, b, 10, 3)
			wantFault(t, b, tt.want)
			clock.add(24 * time.Hour)
			writeLines(t, b, 13, 1)
			wantFault(t, b, "does not hold") // a rotation does not make it good
		})
		t.Run(tt.name+"/running", func(t *testing.T) {
			dir, clock := t.TempDir(), newTestClock()
			a := testAudit(t, dir, clock.Now)
			writeLines(t, a, 0, 10)
			tt.tamper(t, dir)
			if _, _, err := a.verify(context.Background()); err == nil {
				t.Error("verify did not notice before the next line")
			}
			writeLines(t, a, 10, 3)
			if _, _, err := a.verify(context.Background()); err == nil {
				t.Error("verify did not notice after more lines")
			}
			if a.broken() == "" {
				t.Error("status does not warn")
			}
		})
	}
}

func wantFault(t *testing.T, a *auditLog, want string) {
	t.Helper()
	if _, _, err := a.verify(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("verify: %v; want %q", err, want)
	}
}

func rewrite(t *testing.T, path string, edit func([]string) []string) {
	t.Helper()
	lines := edit(strings.Split(strings.TrimSuffix(readFile(t, path), "\n"), "\n"))
	text := ""
	if len(lines) > 0 {
		text = strings.Join(lines, "\n") + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil { // same inode
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// TestAuditRecovers: what a crash can leave is mended, and a line says so.
func TestAuditRecovers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		crash  func(t *testing.T, dir string)
		held   int
		notice bool
	}{
		{"lines without links", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, chainFile), func(l []string) []string { return l[:len(l)-2] })
		}, 6, true},
		{"half a link", func(t *testing.T, dir string) { cut(t, filepath.Join(dir, chainFile), 20) }, 6, true},
		{"half a line", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, chainFile), func(l []string) []string { return l[:len(l)-1] })
			cut(t, filepath.Join(dir, auditFile), 5)
		}, 6, true},
		{"no chain yet", func(t *testing.T, dir string) {
			for _, f := range []string{chainFile, auditFile} {
				if err := os.Truncate(filepath.Join(dir, f), 0); err != nil {
					t.Fatal(err)
				}
			}
		}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, clock := t.TempDir(), newTestClock()
			a := testAudit(t, dir, clock.Now)
			writeLines(t, a, 0, 5)
			if err := a.close(); err != nil {
				t.Fatal(err)
			}
			tt.crash(t, dir)
			b := testAudit(t, dir, clock.Now)
			wantHeld(t, b, tt.held)
			if got := strings.Contains(readFile(t, filepath.Join(dir, auditFile)), "| "+actionRecovered+" |"); got != tt.notice {
				t.Errorf("a line about it: %v, want %v", got, tt.notice)
			}
			writeLines(t, b, 5, 2)
			wantHeld(t, b, tt.held+2)
		})
	}
}

func cut(t *testing.T, path string, bytes int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()-bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestAuditDiskFull: /dev/full takes the place of a disk without room.
func TestAuditDiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	a := testAudit(t, t.TempDir(), time.Now)
	writeLines(t, a, 0, 2)
	lines := a.lines
	a.lines = full
	if _, err := a.append(numbered(2)); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("append to a full disk: %v", err)
	}
	a.lines = lines
	writeLines(t, a, 2, 1)
	wantHeld(t, a, 3)
}

// FuzzCompare feeds garbage to the reader of log and chain: it must end, and only what it wrote itself may hold.
func FuzzCompare(f *testing.F) {
	h := hash{}.next([]byte("a"))
	f.Add("a\n", chainHeader{day: "2026-01-01"}.String()+h.String()+"\n")
	f.Add("", "start x -1 00\n")
	f.Add("a", "start 2026-01-01 0 "+hash{}.String()+"\nlost")
	f.Fuzz(func(t *testing.T, log, chain string) {
		w, err := compare(context.Background(), auditFile, strings.NewReader(log), strings.NewReader(chain))
		if err == nil && w.held > strings.Count(log, "\n") {
			t.Errorf("%d lines hold of %q", w.held, log)
		}
	})
}
