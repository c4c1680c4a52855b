package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/shim"
)

// logEntry is what is said of one request, beside its decision.
type logEntry struct {
	started                   time.Time
	proto, method, host, path string
	userAgent                 string
	keyName, key, username    string // the API key, and who the API's header or token names
	remote                    netip.Addr
	judged                    bool
	status                    int // 0: the client got none
	bytes, received           int64
	server                    string
}

// accessLog writes a line of JSON for each request. A request never waits for the disk: its line goes into a bounded
// buffer, and is counted as lost where that is full.
type accessLog struct {
	o    LogOptions
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	pending []byte
	lost    uint64 // lines since the start

	file    *os.File // the writer's
	size    int64
	writing []byte
	saidBad bool
}

// Bounds of the access log.
const (
	logPending  = 4 << 20 // bytes that wait for the disk
	logWake     = 64 << 10
	logEvery    = 200 * time.Millisecond
	logText     = 1024 // bytes of a path or user agent
	hashInLog   = 16   // hexadecimal digits
	defaultSize = 100 << 20
	defaultKeep = 5
)

// openAccessLog opens the file, so that a path that cannot be is an error at the start.
func openAccessLog(o LogOptions, log *slog.Logger) (*accessLog, error) {
	if o.Path == "" {
		return nil, nil
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultSize
	}
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	if o.Key == nil {
		o.Key = make([]byte, 32)
		_, _ = rand.Read(o.Key) // never fails
	}
	a := &accessLog{o: o, log: log, wake: make(chan struct{}, 1)}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("%w: access log: %w", ErrOptions, err)
	}
	return a, nil
}

func (a *accessLog) open() error {
	f, err := os.OpenFile(a.o.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	a.file, a.size = f, info.Size()
	return nil
}

// add takes a line over, or counts it as lost.
func (a *accessLog) add(line []byte) {
	a.mu.Lock()
	full := len(a.pending)+len(line) > logPending
	if full {
		a.lost++
	} else {
		a.pending = append(a.pending, line...)
	}
	wake := len(a.pending) > logWake
	a.mu.Unlock()
	if wake {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// lostLines is how many lines were lost.
func (a *accessLog) lostLines() uint64 {
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost
}

// run writes what is pending until ctx ends.
func (a *accessLog) run(ctx context.Context) {
	if a == nil {
		return
	}
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.wake:
		}
		a.write()
	}
}

// close writes the rest.
func (a *accessLog) close() {
	if a == nil {
		return
	}
	a.write()
	if a.file != nil {
		a.file.Close()
	}
}

// write puts what is pending on the disk. What cannot be written is lost, and said once.
func (a *accessLog) write() {
	a.mu.Lock()
	a.pending, a.writing = a.writing[:0], a.pending
	a.mu.Unlock()
	if len(a.writing) == 0 {
		return
	}
	err := a.rotate()
	if err == nil {
		var n int
		n, err = a.file.Write(a.writing)
		a.size += int64(n)
	}
	if err == nil {
		a.saidBad = false
		return
	}
	lines := uint64(0)
	for _, c := range a.writing {
		if c == '\n' {
			lines++
		}
	}
	a.mu.Lock()
	a.lost += lines
	a.mu.Unlock()
	if !a.saidBad {
		a.saidBad = true
		a.log.Error("access log cannot be written, lines are lost until it can", "file", a.o.Path, "error", err)
	}
}

// rotate begins a new file where the old one is full, or was taken away.
func (a *accessLog) rotate() error {
	if a.file != nil {
		here, err := os.Stat(a.o.Path)
		ours, err2 := a.file.Stat()
		if err == nil && err2 == nil && os.SameFile(here, ours) && a.size < a.o.MaxBytes {
			return nil
		}
		a.file.Close()
		a.file = nil
		if err == nil && a.size >= a.o.MaxBytes {
			for i := a.o.Keep; i > 1; i-- {
				_ = os.Rename(a.rotated(i-1), a.rotated(i))
			}
			if err := os.Rename(a.o.Path, a.rotated(1)); err != nil {
				return err
			}
		}
	}
	return a.open()
}

func (a *accessLog) rotated(i int) string { return a.o.Path + "." + strconv.Itoa(i) }

// hash is the short keyed hash of an identifier. Too short to extend, so that the key may simply come first.
func (a *accessLog) hash(id lists.ID) string {
	var room [512]byte
	text := append(room[:0], a.o.Key...)
	text = append(append(text, byte(id.Kind)), id.Name...)
	text = append(append(text, 0), id.Value...)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:hashInLog/2])
}

// identifiers appends the short hashes of who a request says it is from, each if there is no doubt which it is.
func (a *accessLog) identifiers(to []byte, e *logEntry, d *shim.Decision) []byte {
	token, cookie := d.Credentials()
	for _, id := range []lists.ID{token, cookie, {Kind: lists.KindAPIKey, Name: e.keyName, Value: e.key}, {Kind: lists.KindUsername, Value: e.username}} {
		if id.Value != "" {
			to = appendText(to, id.Kind.String(), a.hash(id))
		}
	}
	return to
}

// note takes from a judged request what the line says of it.
func (e *logEntry) note(r *http.Request, d *shim.Decision) {
	one := func(values []string) string {
		if len(values) != 1 {
			return ""
		}
		return values[0]
	}
	e.userAgent = r.UserAgent()
	api := d.API
	if api == nil {
		return
	}
	if api.APIKeyHeader != "" {
		e.keyName, e.key = api.APIKeyHeader, one(r.Header.Values(api.APIKeyHeader))
	}
	if e.key == "" && api.APIKeyQuery != "" && r.URL.RawQuery != "" {
		e.keyName, e.key = api.APIKeyQuery, one(r.URL.Query()[api.APIKeyQuery])
	}
	if api.UsernameHeader != "" {
		e.username = one(r.Header.Values(api.UsernameHeader))
	}
	if e.username != "" || api.JWT.Username == "" {
		return
	}
	var token string
	if name, isQuery := strings.CutPrefix(api.JWT.Location, "qs:"); isQuery {
		token = one(r.URL.Query()[name])
	} else {
		token = one(r.Header.Values(jwtHeader(api)))
		if _, bare, hasScheme := strings.Cut(token, " "); hasScheme {
			token = bare
		}
	}
	e.username = shim.ClaimedUser(api, token)
}

// logRequest writes the line of a request over HTTP/1.1.
func (c *conn) logRequest(w *work) {
	if c.p.access == nil {
		return
	}
	e := &w.entry
	e.started, e.proto, e.method, e.host, e.path, e.remote = w.started, w.proto, w.method, w.host, w.url.Path, c.peer
	if e.judged {
		e.note(&w.req, &w.d)
	}
	c.p.logEntry(e, &w.d)
}

// logEntry writes a line; without an access log it does nothing.
func (p *Proxy) logEntry(e *logEntry, d *shim.Decision) {
	if p.access == nil {
		return
	}
	scratch := p.lines.Get().(*[]byte)
	line := p.access.line((*scratch)[:0], e, d, p.now())
	p.access.add(line)
	*scratch = line
	p.lines.Put(scratch)
}

// line appends the entry as JSON.
func (a *accessLog) line(to []byte, e *logEntry, d *shim.Decision, now time.Time) []byte {
	to = append(to, `{"time":"`...)
	to = e.started.UTC().AppendFormat(to, "2006-01-02T15:04:05.000000Z")
	to = append(to, '"')
	if d.API != nil {
		to = appendText(to, "api", d.API.ID)
	}
	client := d.Client
	if !client.IsValid() {
		client = e.remote
	}
	to = append(to, `,"client":"`...)
	if client.IsValid() {
		to = client.AppendTo(to)
	}
	to = append(to, '"')
	if e.remote != client && e.remote.IsValid() {
		to = append(to, `,"peer":"`...)
		to = append(e.remote.AppendTo(to), '"')
	}
	to = appendText(to, "proto", e.proto)
	to = appendText(to, "method", e.method)
	to = appendText(to, "host", e.host)
	to = appendText(to, "path", e.path)
	verdict, reason := d.Verdict.String(), d.Reason.String()
	if !e.judged {
		verdict, reason = shim.Refuse.String(), shim.Malformed.String()
	}
	to = appendText(to, "verdict", verdict)
	to = appendText(to, "reason", reason)
	if d.ID != (lists.ID{}) {
		to = appendText(to, "entry_kind", d.ID.Kind.String())
		if _, isIP := d.ID.Prefix(); isIP {
			to = appendText(to, "entry", d.ID.Value)
		} else {
			to = appendText(to, "entry", a.hash(d.ID))
		}
	}
	to = a.identifiers(to, e, d)
	to = append(to, `,"status":`...)
	to = strconv.AppendInt(to, int64(e.status), 10)
	to = append(to, `,"bytes":`...)
	to = strconv.AppendInt(to, e.bytes, 10)
	to = append(to, `,"us":`...)
	to = strconv.AppendInt(to, now.Sub(e.started).Microseconds(), 10)
	if e.server != "" {
		to = appendText(to, "server", e.server)
	}
	if e.userAgent != "" {
		to = appendText(to, "user_agent", e.userAgent)
	}
	return append(to, "}\n"...)
}

// appendText appends a member; outside text is capped and escaped.
func appendText(to []byte, name, value string) []byte {
	to = append(append(append(to, `,"`...), name...), `":"`...)
	if len(value) > logText {
		value = value[:logText]
	}
	for i := 0; i < len(value); {
		c := value[i]
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ' || c == 0x7f:
			to = fmt.Appendf(to, `\u%04x`, c)
		case c < utf8.RuneSelf:
			to = append(to, c)
		default:
			r, size := utf8.DecodeRuneInString(value[i:])
			if r == utf8.RuneError || r < 0xa0 || r >= 0x200b && r <= 0x206f {
				to = fmt.Appendf(to, `\u%04x`, r) // what would change how a terminal shows the line
			} else {
				to = append(to, value[i:i+size]...)
			}
			i += size
			continue
		}
		i++
	}
	return append(to, '"')
}
