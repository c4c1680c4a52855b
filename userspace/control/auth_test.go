package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

const nobody = 65534

var addIP = []control.Operation{{Op: "add", List: "blacklist", Kind: "ip", Value: "192.0.2.1"}}

// TestWhoMay holds who may do what: uid and credentials against every call.
func TestWhoMay(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	const open, login, forbidden = "", "", "forbidden"
	for _, tt := range []struct {
		name           string
		uid            int
		user, password string
		want           string // of every call that needs a login
		by             string // who the backend hears it is
	}{
		{"root", 0, "", "", login, "root"},
		{"root with password", 0, "admin", "admin", login, "admin"},
		{"root with wrong password", 0, "admin", "wrong", forbidden, ""},
		{"root with empty password", 0, "admin", "", forbidden, ""},
		{"root as unknown user", 0, "eve", "admin", forbidden, ""},
		{"root as user root", 0, "root", "root", forbidden, ""},
		{"nobody", nobody, "", "", forbidden, ""},
		{"nobody with password", nobody, "admin", "admin", login, "admin"},
		{"nobody with wrong password", nobody, "admin", "Admin", forbidden, ""},
		{"nobody with long password", nobody, "admin", "admin" + strings.Repeat("x", 5000), forbidden, ""},
		{"nobody as user root", nobody, "root", "", forbidden, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := controltest.NewBackend()
			c := as(t, controltest.Serve(t, backend, control.Options{}), tt.uid, tt.user, tt.password)
			check := func(call, want string, err error) {
				t.Helper()
				if want == "" && err != nil {
					t.Errorf("%s: %v", call, err)
				}
				var e *control.Error
				if want != "" && (!errors.As(err, &e) || string(e.Code) != want || e.Hint == "") {
					t.Errorf("%s: %v; want %s with a hint", call, err, want)
				}
			}
			_, err := c.Status(ctx)
			check("status", open, err)
			_, err = c.Version(ctx)
			check("version", open, err)
			_, err = c.AuthMethod(ctx)
			check("auth method", tt.want, err)
			if tt.name == "nobody with long password" {
				return // its four failures would only be slow
			}
			_, err = c.Apply(ctx, addIP)
			check("apply", tt.want, err)
			for _, err = range c.List(ctx, lists.Blacklist) {
				if err != nil {
					break
				}
			}
			check("list", tt.want, err)
			if got := backend.Requests(); (len(got) == 1) != (tt.want == "") {
				t.Fatalf("backend saw %d requests", len(got))
			} else if len(got) == 1 && (got[0].Caller.User != tt.by || got[0].Caller.UID != tt.uid || got[0].Caller.PID != os.Getpid() ||
				got[0].Caller.Via != "cli" || got[0].Batch.By != tt.by || got[0].Batch.Via != "cli") {
				t.Errorf("backend saw %+v, by %q via %q", got[0].Caller, got[0].Batch.By, got[0].Batch.Via)
			}
		})
	}
}

// TestSourceOtherThanManual is for root only: a detector's entry must come from the detector.
func TestSourceOtherThanManual(t *testing.T) {
	ctx := context.Background()
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{})
	decoy := []control.Operation{addIP[0]}
	decoy[0].Source = "decoy"
	admin := &control.Client{Socket: c.Socket, User: "admin", Password: "admin"}
	_, err := admin.Apply(ctx, decoy)
	if e := wantError(t, err, control.CodeForbidden); !strings.Contains(e.Message, "decoy") {
		t.Errorf("message %q does not name the source", e.Message)
	}
	needRoot(t)
	if _, err := c.Apply(ctx, decoy); err != nil {
		t.Error(err)
	}
}

func TestPassword(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	dir := t.TempDir()
	root := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	login := func(user, password string) *control.Client { return as(t, root, nobody, user, password) }
	works := func(password string) bool {
		t.Helper()
		_, err := login("admin", password).AuthMethod(ctx)
		if err != nil {
			wantError(t, err, control.CodeForbidden)
		}
		return err == nil
	}
	warned := func() bool {
		st, err := root.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(st.Warnings) == 1 && strings.Contains(st.Warnings[0], "update_password")
	}
	if !works("admin") || !warned() {
		t.Fatalf("admin/admin works %v, warned %v", works("admin"), warned())
	}
	for name, bad := range map[string]string{"empty": "", "long": strings.Repeat("x", 129), "newline": "a\nb", "escape": "a\x1b[2J"} {
		if err := login("admin", "admin").SetPassword(ctx, "admin", bad); err == nil {
			t.Errorf("%s password was taken", name)
		} else {
			wantError(t, err, control.CodeInvalid)
		}
	}
	wantError(t, login("admin", "admin").SetPassword(ctx, "wrong", "new"), control.CodeForbidden)
	wantError(t, login("admin", "admin").SetPassword(ctx, "", "new"), control.CodeForbidden)
	if !works("admin") {
		t.Fatal("a refused change changed the password")
	}

	long := "ü" + strings.Repeat("x", 126)
	if err := login("admin", "admin").SetPassword(ctx, "admin", long); err != nil {
		t.Fatal(err)
	}
	if works("admin") || !works(long) || warned() {
		t.Fatal("after the change: the old password works, the new does not, or the warning is still there")
	}

	// Root without a login needs no old password, but an old one that is given must be right.
	wantError(t, root.SetPassword(ctx, "wrong", "reset"), control.CodeForbidden)
	wantError(t, (&control.Client{Socket: root.Socket, User: "eve"}).SetPassword(ctx, "", "reset"), control.CodeNotFound)
	if err := (&control.Client{Socket: root.Socket, User: "admin"}).SetPassword(ctx, "", "reset"); err != nil {
		t.Fatal(err)
	}
	if err := root.SetPassword(ctx, "", "again"); err != nil {
		t.Fatal(err)
	}
	if !works("again") || works("reset") {
		t.Fatal("root's reset did not set the password")
	}
	info, err := os.Stat(filepath.Join(dir, "users.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("users.json: %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "users.json"))
	if err != nil || !strings.Contains(string(text), "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Contains(string(text), "again") {
		t.Errorf("users.json holds %s, %v", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".users*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	again := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	if _, err := as(t, again, nobody, "admin", "again").AuthMethod(ctx); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestBrokenUsers: passwords are closed, root still works, and can make the file anew.
func TestBrokenUsers(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	good := `{"users":[{"name":"admin","hash":"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$3w1vT5pY0n0bIu1z1JkXv1tJm2g7v8mJt1sT3n1h0mA"}]}`
	for name, text := range map[string]string{
		"empty": "", "garbage": "\x00\x01", "cut": good[:40], "no users": `{"users":[]}`, "unknown field": `{"users":[],"x":1}`,
		"bad hash": strings.Replace(good, "argon2id", "md5", 1), "costly": strings.Replace(good, "m=19456", "m=99999999", 1),
		"root": strings.Replace(good, `"admin"`, `"root"`, 1), "trailing": good + good, "readable": good,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mode := os.FileMode(0o600)
			if name == "readable" {
				mode = 0o644
			}
			if err := os.WriteFile(filepath.Join(dir, "users.json"), []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			root := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
			_, err := as(t, root, nobody, "admin", "admin").AuthMethod(ctx)
			wantError(t, err, control.CodeForbidden)
			if _, err := root.Apply(ctx, addIP); err != nil {
				t.Fatalf("root: %v", err)
			}
			st, err := root.Status(ctx)
			if err != nil || len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], "users.json") {
				t.Fatalf("warnings %q, %v", st.Warnings, err)
			}
			if err := root.SetPassword(ctx, "", "fresh"); err != nil {
				t.Fatal(err)
			}
			if _, err := as(t, root, nobody, "admin", "fresh").AuthMethod(ctx); err != nil {
				t.Errorf("after root's reset: %v", err)
			}
			if kept, err := os.ReadFile(filepath.Join(dir, "users.json.broken")); err != nil || string(kept) != text {
				t.Errorf("the broken file was not kept: %q, %v", kept, err)
			}
		})
	}
}

// TestKeptUsers: a users.json that could not be read is read once it can be, and one that was removed is written again.
func TestKeptUsers(t *testing.T) {
	needRoot(t)
	ctx, dir := context.Background(), t.TempDir()
	path, away := filepath.Join(dir, "users.json"), filepath.Join(dir, "away")
	server, root := controltest.Start(t, controltest.NewBackend(), control.Options{StateDir: dir})
	if err := root.SetPassword(ctx, "", "fresh"); err != nil {
		t.Fatal(err)
	}
	login := func(server *control.Server, root *control.Client, what string) {
		t.Helper()
		if err := server.Keep(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := as(t, root, nobody, "admin", "fresh").AuthMethod(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	login(server, root, "removed")
	if err := errors.Join(os.Rename(path, away), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	server, root = controltest.Start(t, controltest.NewBackend(), control.Options{StateDir: dir})
	_, err := as(t, root, nobody, "admin", "fresh").AuthMethod(ctx)
	wantError(t, err, control.CodeForbidden)
	if err := errors.Join(os.Remove(path), os.Rename(away, path)); err != nil {
		t.Fatal(err)
	}
	login(server, root, "there again")

	// Lost while no daemon ran: not even then is the password that of a new node.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	root = controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	_, err = as(t, root, nobody, "admin", "admin").AuthMethod(ctx)
	wantError(t, err, control.CodeForbidden)
	if st, err := root.Status(ctx); err != nil || len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], "update_password makes a new users.json") {
		t.Errorf("warnings %q, %v", st.Warnings, err)
	}
	if err := root.SetPassword(ctx, "", "fresh"); err != nil {
		t.Fatal(err)
	}
	login(server, root, "made anew by root")
}

// TestManyCallsHashOnce: a script's thousand calls must not cost a thousand hashes (about 30 ms each).
func TestManyCallsHashOnce(t *testing.T) {
	ctx := context.Background()
	c := *controltest.Serve(t, controltest.NewBackend(), control.Options{})
	c.User, c.Password = "admin", "admin"
	if _, err := c.AuthMethod(ctx); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for range 1000 {
		if _, err := c.AuthMethod(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("1000 calls took %v", took)
	} else {
		t.Logf("1000 calls with a password took %v", took)
	}
}

// TestGuessingIsSlowed: failures of one uid delay that uid, and nobody else.
func TestGuessingIsSlowed(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	root := controltest.Serve(t, controltest.NewBackend(), control.Options{})
	guess := as(t, root, nobody, "admin", "guess")
	start := time.Now()
	for range control.FreeFailures + 3 {
		_, err := guess.AuthMethod(ctx)
		wantError(t, err, control.CodeForbidden)
	}
	if took := time.Since(start); took < 750*time.Millisecond { // 250 + 500 ms and more
		t.Errorf("%d guesses took only %v", control.FreeFailures+3, took)
	}
	start = time.Now()
	if _, err := as(t, root, nobody-1, "admin", "admin").AuthMethod(ctx); err != nil {
		t.Errorf("another uid: %v", err)
	}
	if _, err := root.AuthMethod(ctx); err != nil {
		t.Errorf("root: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("others were delayed too: %v", took)
	}
	if _, err := as(t, root, nobody, "admin", "admin").AuthMethod(ctx); err != nil {
		t.Errorf("the right password after wrong ones must work, late: %v", err)
	}
}

// TestGuessingSideBySide: a hundred guesses over the network at once, and each is slowed down all the same.
func TestGuessingSideBySide(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		server, err := control.New(control.Options{Backend: controltest.NewBackend(), StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		began := time.Now()
		var looked, atOnce, refused atomic.Int32
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				_, err := server.Login(t.Context(), "admin", fmt.Sprint("guess ", i), netip.MustParseAddr("192.0.2.7"))
				e := wantError(t, err, control.CodeForbidden)
				switch {
				case strings.Contains(e.Message, "too many"):
					refused.Add(1)
				case time.Since(began) == 0: // hashing takes no time in the bubble
					atOnce.Add(1)
					fallthrough
				default:
					looked.Add(1)
				}
			})
		}
		all.Wait()
		if atOnce.Load() != control.FreeFailures || refused.Load() < 80 || looked.Load()+refused.Load() != 100 {
			t.Errorf("of 100 guesses at once %d were looked at, %d of them at once; %d were refused", looked.Load(), atOnce.Load(), refused.Load())
		}
	})
}
