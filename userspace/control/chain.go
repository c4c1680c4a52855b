package control

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
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

// lostLink stands in a chain for the link of a line whose chain was removed.
const lostLink = "lost"

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

// nextLine reads one line without its newline; io.EOF when there is none. A last line without newline is torn. In
// place of a line that is too long comes its hash: nobody has to start without a daemon because of one.
func nextLine(r *bufio.Reader) (line []byte, torn bool, err error) {
	line, err = r.ReadSlice('\n')
	switch {
	case err == nil:
		return line[:len(line)-1], false, nil
	case errors.Is(err, io.EOF) && len(line) > 0:
		return line, true, nil
	case errors.Is(err, bufio.ErrBufferFull):
		return longLine(line, r)
	}
	return nil, false, err
}

func longLine(begin []byte, r *bufio.Reader) (line []byte, torn bool, err error) {
	sum := sha256.New()
	sum.Write(begin)
	for err = bufio.ErrBufferFull; errors.Is(err, bufio.ErrBufferFull); {
		var part []byte
		part, err = r.ReadSlice('\n')
		sum.Write(part)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	return fmt.Appendf(nil, "line of more than %d bytes, SHA-256 %x", maxAuditLine, sum.Sum(nil)), err != nil, nil
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
		w.tail = link
		lost := string(text) == lostLink
		line, tornLine, err := nextLine(logs)
		w.torn = tornLine
		switch {
		case lost:
			bad("%s line %d cannot be checked: the chain was lost", name, w.links)
		case !ok:
			bad("%s line %d cannot be checked: its link is no hash", name, w.links)
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
