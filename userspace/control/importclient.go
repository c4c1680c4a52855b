package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/netip"
	"unicode/utf8"

	"github.com/portcullis/portcullis/lists"
)

// ImportEntry is an entry to import. For, if not 0, is how many seconds it lives from now, in place of Expires. A zero
// Created is now, an empty By the caller; from others than root both are overwritten.
type ImportEntry struct {
	lists.Entry
	For int64
}

// ImportOptions say how to import.
type ImportOptions struct {
	AcceptRisk []string
	DryRun     bool       // change nothing, say what would change
	Replace    lists.List // whose manual entries that are not imported go, in the same change; 0: none
}

// ImportReply says what an import came to, or would.
type ImportReply struct {
	Generation uint64
	lists.Imported
	Notes []string
}

// Import sends entries as they come and has them added as one change, whole or not at all. It returns after the
// change is durable and enforced. An error of the sequence ends it with nothing changed and is returned as it is.
func (c *Client) Import(ctx context.Context, o ImportOptions, entries iter.Seq2[ImportEntry, error]) (ImportReply, error) {
	// Who may not log in, or finds no daemon, is told before anything is read; and the daemon is not busy now.
	if _, err := c.AuthMethod(ctx); err != nil {
		return ImportReply{}, err
	}
	out, in := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		err := c.upload(in, o, entries)
		failed <- err
		in.CloseWithError(err) // nil: the end
	}()
	var answer wireImportReply
	err := c.post(ctx, "/v1/import", out, &answer)
	out.Close()
	if cause := <-failed; cause != nil && cause != io.ErrClosedPipe {
		return ImportReply{}, cause
	}
	if err != nil {
		return ImportReply{}, err
	}
	return ImportReply{answer.Generation, lists.Imported{Added: answer.Added, Replaced: answer.Updated, Unchanged: answer.Unchanged, Removed: answer.Removed}, answer.Notes}, nil
}

// post sends a body once and reads the answer.
func (c *Client) post(ctx context.Context, path string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://portcullis"+path, body)
	if err != nil {
		return &Error{Code: CodeFailed, Message: fmt.Sprintf("make request: %v", err)}
	}
	req.Header.Set("Content-Type", contentLines)
	if c.User != "" {
		req.SetBasicAuth(c.User, c.Password)
	}
	t := c.transport()
	t.WriteBufferSize = 64 << 10
	res, err := t.RoundTrip(req)
	if err != nil {
		return c.unreached(ctx, http.MethodPost, err)
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return c.refused(res)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, MaxBody))
	if err != nil {
		return c.broken(ctx, http.MethodPost, err)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return c.garbled(err)
	}
	return nil
}

// upload writes the lines of an import.
func (c *Client) upload(w io.Writer, o ImportOptions, entries iter.Seq2[ImportEntry, error]) error {
	buffer := bufio.NewWriterSize(w, 64<<10)
	out := json.NewEncoder(buffer)
	out.SetEscapeHTML(false)
	options := wireImportOptions{AcceptRisk: o.AcceptRisk, DryRun: o.DryRun}
	if o.Replace != 0 {
		options.Replace = o.Replace.String()
	}
	if a, err := netip.ParseAddr(c.SessionPeer); err == nil {
		options.SessionPeer = a.String()
	}
	if err := out.Encode(wireImportLine{Options: &options}); err != nil {
		return err
	}
	count := 0
	var as ImportEntry // of the addresses that come now
	for e, err := range entries {
		if err != nil {
			return err
		}
		for _, s := range []string{e.ID.Name, e.ID.Value, e.Reason, e.Comment, e.By} {
			if !utf8.ValidString(s) {
				return invalid("entry %d: %s: not valid UTF-8", count+1, lists.Quote(s))
			}
		}
		if err := writeImport(buffer, out, &as, e); err != nil {
			return err
		}
		count++
	}
	if err := out.Encode(wireImportLine{End: true, Count: count}); err != nil {
		return err
	}
	return buffer.Flush()
}

// writeImport writes an entry: an address by itself, after a line with the rest where that has changed.
func writeImport(buffer *bufio.Writer, out *json.Encoder, as *ImportEntry, e ImportEntry) error {
	value := e.ID.Value
	if e.ID.Kind != lists.KindIP || bytes.ContainsAny([]byte(value), "\"\\\n") {
		w := wireImportEntry{toWireEntry(e.Entry), e.For}
		return out.Encode(wireImportLine{Entry: &w})
	}
	e.ID = lists.ID{}
	if e != *as {
		w := wireImportEntry{toWireEntry(e.Entry), e.For}
		w.Kind = ""
		if err := out.Encode(wireImportLine{As: &w}); err != nil {
			return err
		}
		*as = e
	}
	buffer.WriteByte('"')
	buffer.WriteString(value)
	_, err := buffer.WriteString("\"\n")
	return err
}
