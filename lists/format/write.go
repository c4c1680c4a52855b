package format

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Writer writes entries in one format. Call Close at the end. Not safe for concurrent use.
type Writer struct {
	out     *bufio.Writer
	format  Format
	now     time.Time
	csv     *csv.Writer
	json    *json.Encoder
	begun   [2]bool // nft: IPv4, IPv6
	skipped int
}

// NewWriter begins a list. now is what the formats that know only times to live count from.
func NewWriter(w io.Writer, f Format, now time.Time) (*Writer, error) {
	out := &Writer{out: bufio.NewWriterSize(w, 64<<10), format: f, now: now}
	switch f {
	case CSV:
		out.csv = csv.NewWriter(out.out)
		return out, out.csv.Write(columns)
	case JSON:
		out.json = json.NewEncoder(out.out)
		out.json.SetEscapeHTML(false)
	case IPSet:
		for _, set := range []string{"portcullis4 hash:net family inet", "portcullis6 hash:net family inet6"} {
			fmt.Fprintf(out.out, "create %s maxelem 16777216 timeout 0 comment\n", set)
		}
	}
	return out, nil
}

// Skipped counts the entries that the format could not take: other kinds than ip; and those past their end.
func (w *Writer) Skipped() int { return w.skipped }

// Write writes an entry.
func (w *Writer) Write(e lists.Entry) error {
	switch w.format {
	case JSON:
		return w.json.Encode(ElementOf(e))
	case CSV:
		expires := ""
		if !e.Expires.IsZero() {
			expires = e.Expires.Format(time.RFC3339)
		}
		return w.csv.Write([]string{e.List.String(), e.Source.String(), e.ID.Kind.String(), e.ID.Name, e.ID.Value,
			e.Reason, e.Comment, expires, e.Created.Format(time.RFC3339), e.By})
	}
	prefix, ok := e.ID.Prefix()
	if !ok || w.format == IPSet && prefix.Bits() == 0 {
		w.skipped++
		return nil
	}
	left := int64(0)
	if !e.Expires.IsZero() {
		if left = int64((e.Expires.Sub(w.now) + time.Second - 1) / time.Second); left <= 0 {
			w.skipped++
			return nil
		}
	}
	var err error
	switch w.format {
	case IPSet:
		err = w.ipset(prefix, left, e)
	case NFT:
		err = w.nft(prefix, left, e)
	default:
		_, err = w.out.WriteString(e.ID.Value + "\n")
	}
	return err
}

func (w *Writer) ipset(p netip.Prefix, left int64, e lists.Entry) error {
	set := "portcullis4"
	if p.Addr().Is6() {
		set = "portcullis6"
	}
	line := "add " + set + " " + e.ID.Value
	if left > 0 {
		line += fmt.Sprintf(" timeout %d", left)
	}
	_, err := w.out.WriteString(line + comment(e) + "\n")
	return err
}

// comment is what ipset and nft are told of an entry; neither can escape a quote, and both take 128 bytes at most.
func comment(e lists.Entry) string {
	text := strings.ReplaceAll(e.Comment, `"`, "'")
	if text == "" || len(text) > 128 {
		return ""
	}
	return ` comment "` + text + `"`
}

// nft writes elements for sets of one family each; a family's begin when its first entry comes.
func (w *Writer) nft(p netip.Prefix, left int64, e lists.Entry) error {
	family, name := 0, "portcullis4"
	if p.Addr().Is6() {
		family, name = 1, "portcullis6"
	}
	if !w.begun[family] {
		w.begun[family] = true
		kind := map[int]string{0: "ipv4_addr", 1: "ipv6_addr"}[family]
		fmt.Fprintf(w.out, "add table inet portcullis\nadd set inet portcullis %s { type %s; flags interval, timeout; }\n", name, kind)
	}
	line := "add element inet portcullis " + name + " { " + e.ID.Value
	if left > 0 {
		line += fmt.Sprintf(" timeout %ds", left)
	}
	_, err := w.out.WriteString(line + comment(e) + " }\n")
	return err
}

// Close writes what is buffered.
func (w *Writer) Close() error {
	if w.csv != nil {
		w.csv.Flush()
		if err := w.csv.Error(); err != nil {
			return err
		}
	}
	return w.out.Flush()
}
