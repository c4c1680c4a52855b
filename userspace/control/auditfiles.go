package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/userspace/durable"
)

// open opens or makes the present files and mends what a crash left: lines without link get one. It returns how
// many. What cannot be a crash is kept as it is, and becomes the fault.
func (a *auditLog) open() (recovered int, err error) {
	if a.key == nil {
		if a.key, err = loadKey(a.path(auditKey)); err != nil {
			return 0, err
		}
	}
	if err := a.finishRotation(); err != nil {
		return 0, err
	}
	if info, err := os.Lstat(a.path(chainFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	} else if err != nil || info.Size() == 0 {
		if err := a.startChain(); err != nil {
			return 0, err
		}
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
	return recovered, durable.SyncDir(a.dir)
}

// adopt reads the files, completes them and takes over where they end.
func (a *auditLog) adopt(lines, chain *os.File) (recovered int, err error) {
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
	if a.day == "" {
		a.day = a.today()
	}
	if a.fault == "" {
		a.fault = w.fault
	}
	return recovered, nil
}

// startChain writes the header that ties a new chain to the newest rotated one.
func (a *auditLog) startChain() error {
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
	// Lines that are there already had links once: what became of them cannot be told any more.
	text, err := os.ReadFile(a.path(auditFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lost := bytes.Count(text, []byte("\n"))
	if len(text) > 0 && text[len(text)-1] != '\n' {
		lost++
	}
	return durable.Replace(a.path(chainFile), []byte(header.String()+strings.Repeat(lostLink+"\n", lost)), 0o600)
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
	names, err := os.ReadDir(a.dir) // filepath.Glob would take a folder that cannot be read for an empty one
	if err != nil {
		return nil, err
	}
	var out []rotatedChain
	for _, name := range names {
		suffix, ok := strings.CutPrefix(name.Name(), chainFile)
		if !ok || !strings.HasPrefix(suffix, ".") {
			continue
		}
		f, err := os.Open(a.path(name.Name()))
		if err != nil {
			return nil, err
		}
		line, _, _ := nextLine(bufio.NewReaderSize(f, 4<<10))
		line = bytes.Clone(line)
		f.Close()
		// One without a header sorts first, and compare reports it.
		header, _ := parseHeader(line)
		out = append(out, rotatedChain{suffix, header})
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
	f, err := a.freeze()
	if err != nil {
		return 0, "", fmt.Errorf("verify audit log: %w", err)
	}
	defer f.close()
	head = f.head.String()
	walks := make([]walk, 0, len(f.rotated)+1)
	for _, r := range f.rotated {
		w, err := a.compareFiles(ctx, r.suffix)
		if err != nil {
			return 0, "", fmt.Errorf("verify audit log: %w", err)
		}
		if w.fault == "" && len(w.unchained) > 0 {
			w.fault = fmt.Sprintf("%s has %d lines more than were written", auditFile+r.suffix, len(w.unchained))
		}
		walks = append(walks, w)
	}
	present, err := f.compare(ctx)
	if err != nil {
		return 0, "", fmt.Errorf("verify audit log: %w", err)
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

// frozen is the log as it was at one moment.
type frozen struct {
	rotated            []rotatedChain
	lines, chain       *os.File
	lineSize, linkSize int64
	written            int64 // what lineSize must be
	head               hash
}

// freeze makes everything durable and notes where it ends, such that no rotation comes in between.
func (a *auditLog) freeze() (f frozen, err error) {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lines == nil {
		return f, errors.New("audit log is not open")
	}
	if err := a.flush(); err != nil {
		return f, err
	}
	if f.rotated, err = a.rotated(); err != nil {
		return f, err
	}
	if f.lines, err = os.Open(a.path(auditFile)); err != nil {
		return f, err
	}
	if f.chain, err = os.Open(a.path(chainFile)); err != nil {
		f.lines.Close()
		return f, err
	}
	f.written, f.head = a.size, a.head
	infoLines, errLines := f.lines.Stat()
	infoChain, errChain := f.chain.Stat()
	if err := errors.Join(errLines, errChain); err != nil {
		f.close()
		return f, err
	}
	f.lineSize, f.linkSize = infoLines.Size(), infoChain.Size()
	return f, nil
}

func (f *frozen) close() {
	f.lines.Close()
	f.chain.Close()
}

// compare looks at the present files up to where they ended.
func (f *frozen) compare(ctx context.Context) (walk, error) {
	w, err := compare(ctx, auditFile, io.LimitReader(f.lines, f.lineSize), io.LimitReader(f.chain, f.linkSize))
	if err != nil || w.fault != "" {
		return w, err
	}
	switch {
	case f.lineSize < f.written:
		w.fault = fmt.Sprintf("%s was cut to %d of %d bytes", auditFile, f.lineSize, f.written)
	case len(w.unchained) > 0:
		w.fault = fmt.Sprintf("%s has %d lines more than were written", auditFile, len(w.unchained))
	case w.tail != f.head:
		w.fault = fmt.Sprintf("%s and its chain do not end where this daemon left them", auditFile)
	}
	return w, nil
}
