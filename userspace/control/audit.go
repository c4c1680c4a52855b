package control

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/userspace/durable"
)

const (
	auditFile = "audit.log"
	chainFile = "audit.chain"
	auditKey  = "audit.key"
)

// auditLog appends lines to audit.log and, beside it, the hash of each to audit.chain (see chain.go). Files are
// rotated at midnight UTC to audit.log.YYYY-MM-DD and audit.chain.YYYY-MM-DD; the chain goes on over the rotation.
// Nothing here ever deletes a file. Safe for concurrent use; calls side by side share one fsync.
//
// A line is durable before write returns. Its hash is written after that, so that the chain is never ahead of the
// log: a crash in between leaves lines without hash, which the next open chains and says so in a line of its own.
type auditLog struct {
	dir string
	now func() time.Time
	log *slog.Logger

	syncing sync.Mutex // one fsync at a time; taken before mu
	synced  uint64     // newest write that is durable

	mu      sync.Mutex
	lines   *os.File // nil after a rotation that could not make new files
	chain   *os.File
	day     string // of the present files
	size    int64  // of lines
	written uint64 // writes so far
	head    hash   // of the newest line
	count   int    // lines since the log began, over all files
	pending []hash // of lines that are written, not yet in chain
	fault   string // what is wrong with the chain
	unopen  error  // why lines is nil
	key     []byte // for the marks behind masked secrets
}

// openAudit opens the log of a directory. If that fails, write tries again, and broken tells until it succeeds.
func openAudit(dir string, now func() time.Time, log *slog.Logger) *auditLog {
	a := &auditLog{dir: dir, now: now, log: log}
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.reopen(); err != nil {
		a.log.Error("changes are refused: they cannot be audited", "error", err)
	}
	return a
}

// loadKey reads the key of the marks, or makes one.
func loadKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// A key of another length is half a file of a crash: new marks do not compare with old ones, nothing else is lost.
	key = make([]byte, 32)
	rand.Read(key)
	if err := durable.Replace(path, key, 0o400); err != nil {
		return nil, err
	}
	return key, nil
}

func (a *auditLog) today() string { return a.now().UTC().Format("2006-01-02") }

// write appends the lines and returns once they are durable. After an error the change they announce must not be
// made; it may be that they are in the log nevertheless.
func (a *auditLog) write(lines []auditLine) error {
	if len(lines) == 0 {
		return nil
	}
	if err := a.rotate(); err != nil {
		return err
	}
	upTo, err := a.append(lines)
	if err != nil {
		return err
	}
	return a.sync(upTo)
}

// append writes the lines, all or none, and returns their number for sync.
func (a *auditLog) append(lines []auditLine) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.add(lines)
}

// add is append for who holds mu.
func (a *auditLog) add(lines []auditLine) (uint64, error) {
	if a.lines == nil {
		return 0, errors.New("audit log is not open")
	}
	var text strings.Builder
	head, hashes := a.head, make([]hash, 0, len(lines))
	now := a.now()
	for _, l := range lines {
		line := l.at(now)
		head = head.next([]byte(line))
		hashes = append(hashes, head)
		text.WriteString(line + "\n")
	}
	n, err := io.WriteString(a.lines, text.String())
	if err != nil {
		if n > 0 {
			err = errors.Join(err, a.lines.Truncate(a.size))
		}
		return 0, fmt.Errorf("write %s: %w", auditFile, err)
	}
	a.size += int64(n)
	a.head, a.count, a.pending = head, a.count+len(lines), append(a.pending, hashes...)
	a.written++
	return a.written, nil
}

// sync returns once write number upTo is durable. Who comes while an fsync runs waits for the next, which then
// serves all that wait.
func (a *auditLog) sync(upTo uint64) error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	if a.synced >= upTo {
		return nil
	}
	a.mu.Lock()
	lines, chain, pending, written := a.lines, a.chain, a.pending, a.written
	a.mu.Unlock()
	if lines == nil {
		return errors.New("audit log is not open")
	}
	if err := lines.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", auditFile, err)
	}
	if err := appendHashes(chain, pending); err != nil {
		return fmt.Errorf("write %s: %w", chainFile, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.synced, a.pending = written, a.pending[len(pending):]
	return nil
}

// flush makes everything durable. Both locks are held.
func (a *auditLog) flush() error {
	if err := a.lines.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", auditFile, err)
	}
	if err := appendHashes(a.chain, a.pending); err != nil {
		return fmt.Errorf("write %s: %w", chainFile, err)
	}
	a.synced, a.pending = a.written, nil
	return nil
}

// rotate moves files of an earlier day aside. A rotation that fails is tried again at the next write.
func (a *auditLog) rotate() error {
	a.mu.Lock()
	due := a.lines == nil || a.today() > a.day || a.displaced()
	a.mu.Unlock()
	if !due {
		return nil
	}
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.lines == nil:
		return a.reopen()
	case a.displaced():
		return a.replace()
	case a.today() <= a.day:
		return nil // somebody else was faster
	}
	if err := errors.Join(a.flush(), a.chain.Sync()); err != nil {
		return fmt.Errorf("rotate audit log: %w", err)
	}
	suffix := a.freeSuffix(a.day)
	if err := os.Rename(a.path(chainFile), a.path(chainFile+suffix)); err != nil {
		return fmt.Errorf("rotate audit log: %w", err)
	}
	if err := os.Rename(a.path(auditFile), a.path(auditFile+suffix)); err != nil {
		return errors.Join(fmt.Errorf("rotate audit log: %w", err), os.Rename(a.path(chainFile+suffix), a.path(chainFile)))
	}
	a.log.Info("audit log rotated", "to", auditFile+suffix, "lines", a.count, "head", a.head.String())
	return a.reopen()
}

// displaced reports whether somebody moved or removed the files under us: lines would go where nobody reads them.
func (a *auditLog) displaced() bool {
	return a.lines != nil && (!sameFile(a.lines, a.path(auditFile)) || !sameFile(a.chain, a.path(chainFile)))
}

func sameFile(f *os.File, path string) bool {
	mine, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}

// replace begins new files in place of displaced ones. The chain keeps what was lost: verify goes on reporting it.
func (a *auditLog) replace() error {
	a.fault = auditFile + " or " + chainFile + " was moved or removed while in use"
	a.log.Error("audit log does not hold", "why", a.fault, "lines", a.count, "head", a.head.String())
	if err := a.flush(); err != nil {
		return err
	}
	if _, err := os.Lstat(a.path(auditFile)); errors.Is(err, os.ErrNotExist) {
		if err := ignoreMissing(os.Rename(a.path(chainFile), a.path(chainFile+a.freeSuffix(a.day)))); err != nil {
			return fmt.Errorf("begin new audit log: %w", err)
		}
	}
	return a.reopen()
}

// reopen opens the present files. Both locks are held.
func (a *auditLog) reopen() error {
	if a.lines != nil {
		a.lines.Close()
		a.chain.Close()
		a.lines, a.chain = nil, nil
	}
	known := a.fault
	recovered, err := a.open()
	if a.unopen = err; err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	a.log.Info("audit log opened", "lines", a.count, "head", a.head.String())
	if a.fault != known {
		a.log.Error("audit log does not hold", "why", a.fault)
	}
	if recovered == 0 {
		return nil
	}
	if _, err = a.add([]auditLine{{via: via, action: actionRecovered, resources: fmt.Sprintf("user=portcullis lines=%d", recovered)}}); err != nil {
		return err
	}
	return a.flush()
}

// freeSuffix returns ".day", or ".day.N" where an admin has put such a file already.
func (a *auditLog) freeSuffix(day string) string {
	suffix := "." + day
	for n := 1; ; n++ {
		_, errLog := os.Lstat(a.path(auditFile + suffix))
		_, errChain := os.Lstat(a.path(chainFile + suffix))
		if errors.Is(errLog, os.ErrNotExist) && errors.Is(errChain, os.ErrNotExist) {
			return suffix
		}
		suffix = fmt.Sprintf(".%s.%d", day, n)
	}
}

func (a *auditLog) path(name string) string { return filepath.Join(a.dir, name) }

func (a *auditLog) openFile(name string) (*os.File, error) {
	return os.OpenFile(a.path(name), os.O_CREATE|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
}

// used reports whether anybody has changed anything yet.
func (a *auditLog) used() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count > 0
}

// broken says what is wrong with the chain, "" if nothing is known to be.
func (a *auditLog) broken() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.unopen != nil:
		return "changes are refused, for the audit log cannot be opened: " + a.unopen.Error()
	case a.fault == "":
		return ""
	}
	return "audit log does not hold: " + a.fault
}

func (a *auditLog) close() error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lines == nil {
		return nil
	}
	err := errors.Join(a.flush(), a.chain.Sync(), a.lines.Close(), a.chain.Close())
	a.lines, a.chain = nil, nil
	a.log.Info("audit log closed", "lines", a.count, "head", a.head.String())
	return err
}
