package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hash is one link of the chain: SHA-256 over the previous link and the line without its newline. A chain file
// begins with a header, "start DAY LINES HASH" (the day it was begun, how many lines all files before it have, and
// the last link of those), and then has one link a line, in hex.
//
// The chain notices lines that were edited, removed, put in or moved, and files that are missing between others. It
// has no secret: who can replace the whole log and all of the chain is found out only by the head, which the daemon's
// own log shows at start, rotation and end.
type hash [sha256.Size]byte

func (h hash) next(line []byte) hash {
	s := sha256.New()
	s.Write(h[:])
	s.Write(line)
	return hash(s.Sum(nil))
}

func (h hash) String() string { return hex.EncodeToString(h[:]) }

func parseLink(b []byte) (h hash, ok bool) {
	if len(b) != hex.EncodedLen(len(h)) {
		return h, false
	}
	_, err := hex.Decode(h[:], b)
	return h, err == nil
}

type chainHeader struct {
	day   string
	lines int
	prev  hash
}

func (h chainHeader) String() string { return fmt.Sprintf("start %s %d %s\n", h.day, h.lines, h.prev) }

func parseHeader(b []byte) (h chainHeader, ok bool) {
	f := strings.Fields(string(b))
	if len(f) != 4 || f[0] != "start" {
		return h, false
	}
	_, err := fmt.Sscanf(f[2], "%d", &h.lines)
	h.day = f[1]
	h.prev, ok = parseLink([]byte(f[3]))
	return h, ok && err == nil && h.lines >= 0
}

// appendHashes writes links to a chain file, all or none.
func appendHashes(chain *os.File, links []hash) error {
	if len(links) == 0 {
		return nil
	}
	end, err := chain.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, h := range links {
		text.WriteString(h.String() + "\n")
	}
	if _, err := io.WriteString(chain, text.String()); err != nil {
		return errors.Join(err, chain.Truncate(end))
	}
	return nil
}

// maxAuditLine bounds a line that is read back; ours are far shorter.
const maxAuditLine = 64 << 10

// nextLine reads one line without its newline; io.EOF when there is none. A last line without newline is torn.
func nextLine(r *bufio.Reader) (line []byte, torn bool, err error) {
	line, err = r.ReadSlice('\n')
	switch {
	case err == nil:
		return line[:len(line)-1], false, nil
	case errors.Is(err, io.EOF) && len(line) > 0:
		return line, true, nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, false, fmt.Errorf("a line has more than %d bytes", maxAuditLine)
	}
	return nil, false, err
}

// walk is what reading a log beside its chain came to.
type walk struct {
	header    chainHeader
	links     int    // links in the chain
	tail      hash   // the last of them, or the header's
	held      int    // lines that hold
	fault     string // the first thing wrong
	unchained []hash // links for lines behind the last link
	torn      bool   // the last line of the log has no newline
	tornLink  int64  // offset of a torn last link, -1 if there is none
}

// compare reads a log and its chain. name is the log's, for messages.
func compare(ctx context.Context, name string, log, chain io.Reader) (w walk, err error) {
	logs, chains := bufio.NewReaderSize(log, maxAuditLine), bufio.NewReaderSize(chain, 4<<10)
	first, torn, err := nextLine(chains)
	w.tornLink = -1
	header, ok := parseHeader(first)
	if err != nil || torn || !ok {
		w.fault = "the chain of " + name + " has no beginning"
		return w, ignoreEOF(err)
	}
	w.header, w.tail = header, header.prev
	offset := int64(len(first) + 1)
	bad := func(format string, args ...any) {
		if w.fault == "" {
			w.fault = fmt.Sprintf(format, args...)
		}
	}
	for {
		if w.links%4096 == 0 && ctx.Err() != nil {
			return w, ctx.Err()
		}
		text, torn, err := nextLine(chains)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return w, err
		}
		if torn {
			w.tornLink = offset
			break
		}
		offset += int64(len(text) + 1)
		prev := w.tail
		link, ok := parseLink(text)
		w.links++
		if w.tail = link; !ok {
			bad("%s line %d: its link is no hash", name, w.links)
			continue
		}
		line, tornLine, err := nextLine(logs)
		w.torn = tornLine
		switch {
		case errors.Is(err, io.EOF):
			bad("%s line %d and what came after is missing: the log was cut", name, w.links)
		case err != nil:
			return w, err
		case tornLine || prev.next(line) != link:
			bad("%s line %d was edited, removed, moved or put in: %s", name, w.links, auditText(string(line)))
		case w.fault == "":
			w.held++
		}
	}
	h := w.tail
	for {
		line, torn, err := nextLine(logs)
		if errors.Is(err, io.EOF) {
			return w, nil
		}
		if err != nil {
			return w, err
		}
		h = h.next(line)
		w.unchained, w.torn = append(w.unchained, h), torn
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// open opens or makes the present files and mends what a crash left: lines without link get one. It returns how
// many. What cannot be a crash is kept as it is, and becomes the fault.
func (a *auditLog) open() (recovered int, err error) {
	if err := a.finishRotation(); err != nil {
		return 0, err
	}
	lines, err := a.openFile(auditFile)
	if err != nil {
		return 0, err
	}
	chain, err := a.openFile(chainFile)
	if err != nil {
		lines.Close()
		return 0, err
	}
	if recovered, err = a.adopt(lines, chain); err != nil {
		lines.Close()
		chain.Close()
		return 0, err
	}
	a.lines, a.chain = lines, chain
	return recovered, syncDir(a.dir)
}

// adopt reads the files, completes them and takes over where they end.
func (a *auditLog) adopt(lines, chain *os.File) (recovered int, err error) {
	if info, err := chain.Stat(); err != nil {
		return 0, err
	} else if info.Size() == 0 {
		if err := a.startChain(chain); err != nil {
			return 0, err
		}
	}
	w, err := compare(context.Background(), auditFile, lines, chain)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", auditFile, err)
	}
	if w.tornLink >= 0 {
		if err := chain.Truncate(w.tornLink); err != nil {
			return 0, err
		}
	}
	if w.torn {
		if _, err := lines.WriteString("\n"); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(lines.Sync(), appendHashes(chain, w.unchained), chain.Sync()); err != nil {
		return 0, err
	}
	info, err := lines.Stat()
	if err != nil {
		return 0, err
	}
	recovered = len(w.unchained)
	a.size, a.day, a.head, a.count = info.Size(), w.header.day, w.tail, w.header.lines+w.links+recovered
	if recovered > 0 {
		a.head = w.unchained[recovered-1]
	}
	if a.fault == "" {
		a.fault = w.fault
	}
	return recovered, nil
}

// startChain writes the header that ties a new chain to the newest rotated one.
func (a *auditLog) startChain(chain *os.File) error {
	header := chainHeader{day: a.today()}
	rotated, err := a.rotated()
	if err != nil {
		return err
	}
	if len(rotated) > 0 {
		last := rotated[len(rotated)-1]
		w, err := a.compareFiles(context.Background(), last.suffix)
		if err != nil {
			return err
		}
		header.lines, header.prev = w.header.lines+w.links, w.tail
	}
	if _, err := chain.WriteString(header.String()); err != nil {
		return errors.Join(err, chain.Truncate(0))
	}
	_, err = chain.Seek(0, io.SeekStart)
	return err
}

// finishRotation completes a rotation that a crash cut between its two renames.
func (a *auditLog) finishRotation() error {
	if _, err := os.Lstat(a.path(chainFile)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := os.Lstat(a.path(auditFile)); err != nil {
		return ignoreMissing(err)
	}
	rotated, err := a.rotated()
	if err != nil || len(rotated) == 0 {
		return err
	}
	target := a.path(auditFile + rotated[len(rotated)-1].suffix)
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(a.path(auditFile), target)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// rotatedChain is a chain file of an earlier day.
type rotatedChain struct {
	suffix string
	header chainHeader
}

// rotated returns the chains of earlier days, oldest first.
func (a *auditLog) rotated() ([]rotatedChain, error) {
	paths, err := filepath.Glob(a.path(chainFile) + ".*")
	if err != nil {
		return nil, err
	}
	var out []rotatedChain
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		line, _, _ := nextLine(bufio.NewReaderSize(f, 4<<10))
		line = bytes.Clone(line)
		f.Close()
		// One without a header sorts first, and compare reports it.
		header, _ := parseHeader(line)
		out = append(out, rotatedChain{strings.TrimPrefix(path, a.path(chainFile)), header})
	}
	slices.SortStableFunc(out, func(x, y rotatedChain) int {
		if x.header.lines != y.header.lines {
			return x.header.lines - y.header.lines
		}
		return strings.Compare(x.suffix, y.suffix)
	})
	return out, nil
}

// compareFiles compares one pair of rotated files.
func (a *auditLog) compareFiles(ctx context.Context, suffix string) (walk, error) {
	chain, err := os.Open(a.path(chainFile + suffix))
	if err != nil {
		return walk{}, err
	}
	defer chain.Close()
	lines, err := os.Open(a.path(auditFile + suffix))
	if errors.Is(err, os.ErrNotExist) {
		return compare(ctx, auditFile+suffix, strings.NewReader(""), chain)
	}
	if err != nil {
		return walk{}, err
	}
	defer lines.Close()
	return compare(ctx, auditFile+suffix, lines, chain)
}

// verify reads every file there is and returns how many lines hold and the newest link. The error names the first
// line that does not hold.
func (a *auditLog) verify(ctx context.Context) (held int, head string, err error) {
	rotated, present, head, err := a.freeze(ctx)
	if err != nil {
		return 0, "", fmt.Errorf("verify audit log: %w", err)
	}
	walks := make([]walk, 0, len(rotated)+1)
	for _, r := range rotated {
		w, err := a.compareFiles(ctx, r.suffix)
		if err != nil {
			return 0, "", fmt.Errorf("verify audit log: %w", err)
		}
		if w.fault == "" && len(w.unchained) > 0 {
			w.fault = fmt.Sprintf("%s has %d lines more than were written", auditFile+r.suffix, len(w.unchained))
		}
		walks = append(walks, w)
	}
	walks = append(walks, present)
	fault := ""
	for i, w := range walks {
		held += w.held
		if i > 0 && fault == "" && (w.header.prev != walks[i-1].tail || w.header.lines != walks[i-1].header.lines+walks[i-1].links) {
			fault = fmt.Sprintf("files between line %d and line %d are missing", walks[i-1].header.lines+walks[i-1].links, w.header.lines+1)
		}
		if fault == "" {
			fault = w.fault
		}
		if fault != "" {
			break
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = fault
	if fault != "" {
		return held, head, fmt.Errorf("audit log does not hold: %s; %d lines before it hold", fault, held)
	}
	return held, head, nil
}

// freeze compares the present files up to where they end now, and lists those of earlier days, such that no rotation
// comes in between.
func (a *auditLog) freeze(ctx context.Context) (rotated []rotatedChain, present walk, head string, err error) {
	a.mu.Lock()
	upTo := a.written
	a.mu.Unlock()
	if err := a.sync(upTo); err != nil {
		return nil, walk{}, "", err
	}
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	if rotated, err = a.rotated(); err != nil {
		a.mu.Unlock()
		return nil, walk{}, "", err
	}
	lines, errLog := os.Open(a.path(auditFile))
	chain, errChain := os.Open(a.path(chainFile))
	pending, size, tail := len(a.pending), a.size, a.head
	a.mu.Unlock()
	if err := errors.Join(errLog, errChain); err != nil {
		return nil, walk{}, "", err
	}
	defer lines.Close()
	defer chain.Close()
	// Writers go on appending lines, not links: those wait for syncing.
	if present, err = compare(ctx, auditFile, io.LimitReader(lines, size), chain); err != nil {
		return nil, walk{}, "", err
	}
	if pending > 0 && len(present.unchained) == pending {
		present.tail, present.unchained = present.unchained[pending-1], nil
	}
	if info, err := lines.Stat(); err == nil && present.fault == "" {
		switch {
		case info.Size() < size:
			present.fault = fmt.Sprintf("%s was cut to %d of %d bytes", auditFile, info.Size(), size)
		case len(present.unchained) > 0:
			present.fault = fmt.Sprintf("%s has %d lines more than were written", auditFile, len(present.unchained))
		case present.tail != tail:
			present.fault = fmt.Sprintf("%s and its chain do not end where this daemon left them", auditFile)
		}
	}
	return rotated, present, tail.String(), nil
}
