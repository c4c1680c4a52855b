package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestListenChild is what TestListen starts: it listens as the environment says, and answers one connection.
func TestListenChild(t *testing.T) {
	address := os.Getenv("LISTEN_CHILD")
	if address == "" {
		return // not started by TestListen
	}
	l, err := Listen(t.Context(), address, "")
	if err != nil {
		fmt.Println("child:", err)
		return
	}
	defer l.Close()
	fmt.Println("child: listens at", l.Plain[0].Addr())
	c, err := l.Plain[0].Accept()
	if err == nil {
		_, _ = io.WriteString(c, "from the child")
		c.Close()
	}
}

// TestKept: of what the process before has left, the socket at the configured address is taken over, and others closed.
func TestKept(t *testing.T) {
	kept, other := listen(t), listen(t)
	files, err := Listeners{Plain: []net.Listener{kept}, TLS: []net.Listener{other}}.Keep()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	kept.Close()
	other.Close()
	child := func(numbers string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestListenChild$")
		cmd.Env = append(os.Environ(), "LISTEN_CHILD="+kept.Addr().String(), keptEnv+"="+numbers)
		cmd.ExtraFiles = files
		return cmd
	}
	said, err := child("3,x").CombinedOutput()
	if want := `child: take over the sockets "3,x": "x" is no descriptor`; err != nil || !strings.Contains(string(said), want) {
		t.Errorf("the child says %q, %v, want %q", said, err, want)
	}

	cmd := child("3,4")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	files.Close()
	in := bufio.NewReader(out)
	line, err := in.ReadString('\n')
	if want := "child: listens at " + kept.Addr().String() + "\n"; line != want {
		t.Errorf("the child says %q, %v, want %q", line, err, want)
	}
	if c, err := net.Dial("tcp", other.Addr().String()); err == nil {
		c.Close()
		t.Error("a socket for another address is still open")
	}
	if got, err := io.ReadAll(dialRaw(t, kept.Addr().String())); err != nil || string(got) != "from the child" {
		t.Errorf("got %q, %v", got, err)
	}
	_, _ = io.Copy(io.Discard, in)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestListen: sockets are taken over as systemd hands them over, those of other ports are refused, and without any the
// address is opened.
func TestListen(t *testing.T) {
	kept := listen(t)
	defer kept.Close()
	file, err := kept.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	child := func(address string) *exec.Cmd {
		// LISTEN_PID is the process's own, which only that process knows.
		cmd := exec.Command("sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`, os.Args[0], "-test.run", "^TestListenChild$")
		cmd.Env = append(os.Environ(), "LISTEN_CHILD="+address, "LISTEN_FDS=1", "LISTEN_FDNAMES=portcullis")
		cmd.ExtraFiles = []*os.File{file}
		return cmd
	}

	cmd := child(kept.Addr().String())
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := dialRaw(t, kept.Addr().String())
	if got, err := io.ReadAll(c); err != nil || string(got) != "from the child" {
		t.Errorf("got %q, %v", got, err)
	}
	_ = cmd.Wait()
	if !strings.Contains(out.String(), "child: listens at "+kept.Addr().String()) {
		t.Errorf("the child says %q", out.String())
	}

	said, _ := child("127.0.0.1:1").CombinedOutput()
	if want := "systemd hands over a socket at " + kept.Addr().String(); !strings.Contains(string(said), want) {
		t.Errorf("for another port the child says %q, want %q", said, want)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := Listen(ctx, "127.0.0.1:0", "")
	if err != nil || len(l.Plain) != 1 || len(l.TLS) != 0 {
		t.Fatalf("without systemd: %v, %v", l, err)
	}
	taken := l.Plain[0].Addr().String()
	if _, err := Listen(ctx, taken, ""); err == nil || !strings.Contains(err.Error(), taken) {
		t.Errorf("a port that is taken: %v", err)
	}
	l.Close()
}
