package gateways

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// built is testenv.Build, once: it waits for the builds of other packages' tests, and asks make each time.
var built = sync.OnceValues(testenv.Build)

// rig is a daemon without interfaces, and a backend.
type rig struct {
	t        *testing.T
	dir, bin string
	config   string
	backend  *recorder // nil: the test has one of its own
	app      string    // where the backend listens
	daemon   *process
	// Where the daemon's fronts listen.
	check, authz, spoe, inline string
	small                      bool   // HAProxy is to send small frames
	user                       string // HAProxy gives up root for this user and group
}

// api recognises clients by everything there is.
const api = `{"api_metadata":{"protocol":"http","url":"/","hostname":"*","cookie":"JSESSIONID","oauth2_access_token":true,
"apikey_header":"X-API-KEY","apikey_qs":"api_key","username_header":"x-user","enable_blocking":true,
"servers":[{"host":"127.0.0.1","port":%s}]}}`

// decoyAPI has a decoy that answers as if it were there.
const decoyAPI = `{"api_metadata":{"protocol":"http","url":"/shop","hostname":"*","enable_blocking":true,
"decoy_config":{"decoy_enabled":true,"response_code":200,"response_def":"OK","response_message":"welcome","decoy_subpaths":["admin"]},
"servers":[{"host":"127.0.0.1","port":%s}]}}`

func newRig(t *testing.T) *rig {
	t.Helper()
	b := newRecorder(t)
	r := newRigWith(t, b.Listener.Addr().String(), api, "", freeAddress(t))
	r.backend = b
	return r
}

// newRigWith starts a daemon with this API in front of a backend; more is further configuration, spoe where that listens.
func newRigWith(t *testing.T, app, api, more, spoe string) *rig {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gateways")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // gateways give up root
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, bin: bin, app: app}
	r.check, r.authz, r.spoe = freeAddress(t), freeAddress(t), spoe
	r.config = r.write("portcullis.toml", fmt.Sprintf(`state_dir = %q
socket = %q
pin_dir = %q
trusted_proxies = ["`+trusted+`"]
[check]
listen = %q
[ext_authz]
listen = %q
[spoe]
listen = %q
`, dir+"/state", dir+"/control.sock", dir+"/pins", r.check, r.authz, r.spoe)+more)
	r.startDaemon()
	t.Cleanup(func() { r.daemon.kill() })
	r.cli("update_api", r.write("root.json", fmt.Sprintf(api, port(app))))
	return r
}

// startDaemon starts the daemon and waits until it answers.
func (r *rig) startDaemon() {
	r.t.Helper()
	r.daemon = r.start("portcullis", nil, filepath.Join(r.bin, "portcullis"), "serve", "--config", r.config)
	testenv.Eventually(r.t, 30*time.Second, "the daemon is ready", func() error {
		_, err := r.try("status")
		return err
	})
}

// cli runs a command that must succeed.
func (r *rig) cli(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) try(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(r.bin, "portcullis"), args...)
	cmd.Env = append(os.Environ(), "PORTCULLIS_SOCKET="+r.dir+"/control.sock", "PORTCULLIS_PIN_DIR="+r.dir+"/pins", "SSH_CONNECTION=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("portcullis %s: %w\n%s\n%s", strings.Join(args, " "), err, out, r.daemon.log())
	}
	return string(out), nil
}

func (r *rig) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// deployed writes a file of deploy with these replacements, each of which must be there to be made.
func (r *rig) deployed(from, to string, oldnew ...string) string {
	r.t.Helper()
	root, err := testenv.Root()
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "deploy", from))
	if err != nil {
		r.t.Fatal(err)
	}
	text := string(raw)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			r.t.Fatalf("deploy/%s has no %q", from, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return r.write(to, text)
}

// process is one that ends with the test.
type process struct {
	cmd  *exec.Cmd
	path string
	done chan struct{}
}

func (r *rig) start(name string, env []string, argv ...string) *process {
	r.t.Helper()
	path := filepath.Join(r.dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	p := &process{cmd: cmd, path: path, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	r.t.Cleanup(p.kill)
	return p
}

// kill ends the process and those that it started. Calling it again does nothing.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

func (p *process) log() string {
	text, _ := os.ReadFile(p.path)
	return string(text)
}

// answers waits until somebody accepts connections at address.
func (r *rig) answers(p *process, address string) {
	r.t.Helper()
	testenv.Eventually(r.t, 20*time.Second, "listens at "+address, func() error {
		select {
		case <-p.done:
			r.t.Fatalf("it has ended:\n%s", p.log())
		default:
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, p.log())
		}
		return c.Close()
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// recorder is a backend that remembers what it was asked.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]string // by the header X-Case: method, path and body
}

func newRecorder(t *testing.T) *recorder {
	b := &recorder{seen: make(map[string]string)}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.seen[r.Header.Get("X-Case")] = r.Method + " " + r.RequestURI + " " + string(body)
		b.mu.Unlock()
		io.WriteString(w, "backend")
	}))
	t.Cleanup(b.Close)
	return b
}

// got says what of a case has reached the backend, "" if nothing has.
func (b *recorder) got(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[name]
}

// answer is what a client gets.
type answer struct {
	status int
	body   string
}

// send sends raw bytes from an address of this host and returns the first answer.
func send(from, to string, raw []byte) (answer, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(raw); err != nil {
		return answer{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(bytes.TrimSpace(body))}, err
}
