package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestSlowClients: each way of being slow ends in its time and is counted, and honest clients are served meanwhile.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, nil)
	r := newRig(t, Options{Limits: Limits{HeaderTimeout: time.Second, IdleTimeout: time.Second, AnswerTimeout: 2 * time.Second}}, rootAPI(b.address))
	ends := func(t *testing.T, name, send, want string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dialRaw(t, r.plain)
			began := time.Now()
			c.send("%s", send)
			got, _ := io.ReadAll(c.in)
			if !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 {
				t.Errorf("got %q, want %q", got, want)
			}
			if took := time.Since(began); took < time.Second {
				t.Errorf("ended after %v, before its time", took)
			}
		})
	}
	t.Run("all", func(t *testing.T) {
		ends(t, "nothing", "", "")
		ends(t, "half a header", "GET / HTTP/1.1\r\nHost: a\r\nX: ", "HTTP/1.1 408 Request Timeout")
		ends(t, "half a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 408 Request Timeout")
		ends(t, "half a chunk", chunked("5\r\nab"), "HTTP/1.1 408 Request Timeout")
		ends(t, "idle after an answer", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK")
		t.Run("honest", func(t *testing.T) {
			t.Parallel()
			for range 20 {
				c := dialRaw(t, r.plain)
				c.send("GET /h HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				c.expect("200 OK", "GET /h 0")
			}
		})
	})
	r.eventually("they are gone", func(s Stats) bool { return s.Connections == 0 && s.Active == 0 })
	if s := r.p.Stats(); s.SlowHeaders != 1 || s.SlowBodies != 2 || s.Backends[0].Failures != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestSlowBackend: the client is told in time.
func TestSlowBackend(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		_, _ = io.Copy(io.Discard, in)
		return false
	})
	r := newRig(t, Options{Limits: Limits{AnswerTimeout: time.Second}}, rootAPI(b.address))
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("504 Gateway Timeout", "Error: Gateway Timeout")
	a, err := web(t, true).Get("http://" + r.plain + "/")
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != 504 {
		t.Errorf("HTTP/2: %d, want 504", a.StatusCode)
	}
	if s := r.p.Stats(); s.BackendTimeouts != 2 {
		t.Errorf("counted %+v", s)
	}
}

// TestBodyRate: a body that drips is ended, one that flows is not, however long it takes.
func TestBodyRate(t *testing.T) {
	c := &conn{p: &Proxy{limits: Limits{}.withDefaults()}}
	c.uploading.Store(true)
	slow := func(seconds uint32, rate int64) bool {
		c.windowStart = 0
		for now := uint32(1); now <= seconds; now++ {
			if c.tooSlow(now) {
				return true
			}
			c.uploaded.Add(rate)
		}
		return false
	}
	for rate, want := range map[int64]bool{0: true, 100: true, 255: true, 256: false, 100_000: false} {
		if got := slow(100, rate); got != want {
			t.Errorf("%d bytes a second: ended %t, want %t", rate, got, want)
		}
	}
	if slow(bodyWindow, 0) {
		t.Error("ended before the window was over")
	}
}

func TestConnectionLimits(t *testing.T) {
	r := newRig(t, Options{Limits: Limits{ConnectionsPerClient: 5}}, rootAPI())
	var all []net.Conn
	for range 8 {
		c, err := net.Dial("tcp", r.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	r.eventually("three were refused", func(s Stats) bool { return s.RefusedConnections == 3 && s.Connections == 5 })
	for _, c := range all {
		c.Close()
	}
	r.eventually("they are counted out", func(s Stats) bool { return s.Connections == 0 })
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("503 Service Unavailable", "Error: No Server Configured")
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if len(r.p.perPeer) != 1 {
		t.Errorf("counts are kept of %v", r.p.perPeer)
	}
}

// TestManyIdleConnections: their memory is bounded, and stays out of the way of requests. -v prints it.
func TestManyIdleConnections(t *testing.T) {
	count := 10_000
	if testing.Short() {
		count = 1000
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	count = min(count, int(limit.Max)/2-200) // both ends are in this process
	b := newRecorder(t, nil)
	r := newRig(t, Options{Limits: Limits{ConnectionsPerClient: -1}}, rootAPI(b.address))
	before := memory(t)
	conns := make([]net.Conn, count)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	var wg sync.WaitGroup
	const workers = 50
	for w := range workers {
		wg.Go(func() {
			buf := make([]byte, 512)
			for i := w; i < count; i += workers {
				c, err := net.Dial("tcp", r.plain)
				if err == nil {
					conns[i] = c
					_ = c.SetDeadline(time.Now().Add(patience))
					_, err = io.WriteString(c, "GET /i HTTP/1.1\r\nHost: a\r\n\r\n")
				}
				if err == nil {
					_, err = c.Read(buf)
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.eventually("all are idle", func(s Stats) bool { return s.Connections == count && s.Active == 0 })
	per := float64(memory(t)-before) / float64(count)
	t.Logf("%d connections that have had an answer each: %.1f KiB of Go memory each (both ends)", count, per/1024)
	if per > 16<<10 {
		t.Errorf("%.0f bytes a connection", per)
	}
	c := r.dial()
	c.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("200 OK", "GET /one 0")
}

// memory is what the process has of memory for Go, after a collection.
func memory(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// TestLargeBodiesTakeNoMemory: 100 MB each way, several at once. -v prints the figures.
func TestLargeBodiesTakeNoMemory(t *testing.T) {
	size, clients := int64(100<<20), 4
	if testing.Short() {
		size = 10 << 20
	}
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		if _, err := io.CopyN(io.Discard, in, size); err != nil {
			return false
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		_, err := io.CopyN(c, zeros{}, size)
		return err == nil
	})
	b.deaf = true
	r := newRig(t, Options{}, rootAPI(b.address))
	before := memory(t)
	var most int64
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			c, err := net.Dial("tcp", r.plain)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(3 * patience))
			if _, err := fmt.Fprintf(c, "POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", size); err != nil {
				t.Error(err)
			}
			if _, err := io.CopyN(c, zeros{}, size); err != nil {
				t.Error(err)
			}
			if n, err := io.Copy(io.Discard, c); err != nil || n < size {
				t.Errorf("%d bytes back, %v", n, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(50 * time.Millisecond):
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, int64(m.HeapInuse+m.StackInuse)-before)
		}
	}
	t.Logf("%d bodies of %d MB each way in %v: at most %.1f MB of Go memory more", clients, size>>20, time.Since(began).Round(time.Millisecond), float64(most)/(1<<20))
	if most > 32<<20 {
		t.Errorf("%d bytes of memory", most)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestGracefulRestart: the listening socket outlives a proxy, as systemd keeps it, and no client is refused while one
// proxy ends and the next begins.
func TestGracefulRestart(t *testing.T) {
	b := newRecorder(t, nil)
	kept := listen(t)
	t.Cleanup(func() { kept.Close() })
	file, err := kept.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var served sync.Map
	for i := range 4 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					served.Store(i, n)
					return
				default:
				}
				c, err := net.Dial("tcp", kept.Addr().String())
				if err != nil {
					t.Errorf("refused: %v", err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				got, err2 := io.ReadAll(c)
				c.Close()
				if err != nil || err2 != nil || !strings.HasSuffix(string(got), "GET / 0") {
					t.Errorf("request %d: %v %v %q", n, err, err2, got)
					return
				}
			}
		})
	}
	total := 0
	for range 5 {
		l, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		r := newRigOn(t, Options{}, Listeners{Plain: []net.Listener{l}}, rootAPI(b.address))
		r.eventually("it serves", func(s Stats) bool { return s.Passed >= 20 })
		if err := r.end(); err != nil {
			t.Error(err)
		}
		total += int(r.p.Stats().Passed)
	}
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	newRigOn(t, Options{}, Listeners{Plain: []net.Listener{l}}, rootAPI(b.address))
	close(stop)
	clients.Wait()
	t.Logf("%d requests over 5 restarts", total)
}

// TestGracefulEnd: what is under way comes to its end, idle connections do not hold it up, and new ones are not taken.
func TestGracefulEnd(t *testing.T) {
	t.Parallel()
	release, arrived := make(chan struct{}), make(chan struct{})
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		if strings.Contains(head, "/slow") {
			close(arrived)
			<-release
		}
		return answerOK(c, head, in)
	})
	r := newRig(t, Options{Limits: Limits{GracefulPeriod: patience}}, rootAPI(b.address))
	idle, slow := r.dial(), r.dial()
	idle.send("GET /i HTTP/1.1\r\nHost: a\r\n\r\n")
	idle.expect("200 OK", "GET /i 0")
	slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	ended := make(chan error, 1)
	go func() { ended <- r.end() }()
	idle.expectEnd()
	testenv.Eventually(t, patience, "no new connection is taken", func() error {
		c, err := net.Dial("tcp", r.plain)
		if err == nil {
			c.Close()
			return os.ErrExist
		}
		return nil
	})
	select {
	case err := <-ended:
		t.Fatalf("ended before its last request: %v", err)
	default:
	}
	close(release)
	if a := slow.expect("200 OK", "GET /slow 0"); !a.Close {
		t.Error("the connection is kept by a proxy that ends")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
