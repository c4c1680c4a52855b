package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/portcullis/portcullis/lists"
)

// Bounds of an import: what the daemon keeps of it in memory (some 50 million hosts), and one line.
const (
	MaxImport     = 256 << 20
	maxImportLine = 128 << 10
)

// wireImportEntry is an entry of an import, or without kind and value what the addresses after it have in common.
type wireImportEntry struct {
	wireEntry
	For int64 `json:"for,omitempty" minimum:"0" doc:"Seconds from now that the entry lives, in place of expires."`
}

// wireImportLine is one line of an import that is no address.
type wireImportLine struct {
	Options *wireImportOptions `json:"options,omitempty" doc:"The first line."`
	As      *wireImportEntry   `json:"as,omitempty" doc:"Everything but the identifier of the addresses that follow."`
	Entry   *wireImportEntry   `json:"entry,omitempty"`
	End     bool               `json:"end,omitempty" doc:"The last line; without it nothing is changed."`
	Count   int                `json:"count,omitempty" doc:"With end: how many entries and addresses came before."`
}

type wireImportOptions struct {
	AcceptRisk  []string `json:"accept_risk,omitempty" maxItems:"32"`
	SessionPeer string   `json:"session_peer,omitempty" maxLength:"64"`
	DryRun      bool     `json:"dry_run,omitempty" doc:"Change nothing, say what would change."`
	Replace     string   `json:"replace,omitempty" enum:"whitelist,blacklist" doc:"Remove the manual entries of this list that the import does not hold, in the same change."`
}

type wireImportReply struct {
	Generation uint64   `json:"generation" doc:"Generation that holds the import; with dry_run: the one that it would make."`
	Added      int      `json:"added"`
	Updated    int      `json:"updated" doc:"Were there with another end, reason or comment."`
	Unchanged  int      `json:"unchanged"`
	Removed    int      `json:"removed" doc:"With replace: were there, and the import does not hold them."`
	Notes      []string `json:"notes" doc:"What the caller should be told."`
}

func (s *Server) registerImport(login []map[string][]string) {
	line := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[wireImportLine](), true, "")
	address := &huma.Schema{Type: huma.TypeString, Description: "An address or CIDR."}
	huma.Register(s.api, huma.Operation{
		OperationID: "import", Method: http.MethodPost, Path: "/v1/import", Security: login,
		Summary: "Add many entries, whole or not at all",
		Description: "One JSON value a line: options, then entries, or addresses as strings, which take the rest from the last as; then end. " +
			"Answers after the change is durable and enforced. Created, by and a source other than manual are taken from root only.",
		Errors: []int{400, 401, 403, 409, 500}, MaxBodyBytes: MaxImport,
	}, s.postImport)
	// Said only now, for the document alone: huma would read the body itself.
	s.api.OpenAPI().Paths["/v1/import"].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		contentLines: {Schema: &huma.Schema{OneOf: []*huma.Schema{line, address}}}}}
}

// importInput leaves the body where it is: it is read line by line.
type importInput struct{ body io.Reader }

// Resolve keeps the body for the handler; huma calls it.
func (i *importInput) Resolve(ctx huma.Context) []error {
	i.body = &patientReader{ctx.BodyReader(), ctx}
	return nil
}

// patientReader gives every read a deadline of its own.
type patientReader struct {
	body io.Reader
	ctx  huma.Context
}

func (r *patientReader) Read(b []byte) (int, error) {
	if err := r.ctx.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return 0, err
	}
	return r.body.Read(b)
}

func (s *Server) postImport(ctx context.Context, in *importInput) (*output[wireImportReply], error) {
	caller := callerOf(ctx)
	d := &importDecoder{decoder: decoder{now: s.now(), by: caller.User, root: isRoot(caller)}, pack: &lists.Pack{}}
	err := d.read(in.body)
	if err != nil {
		_, _ = io.Copy(io.Discard, in.body) // so that the client is listening when we say what is wrong
	}
	freeRead(ctx)
	if err != nil {
		return nil, asError(err)
	}
	if p, err := netip.ParseAddr(d.options.SessionPeer); err == nil {
		caller.SessionPeer = p.Unmap().WithZone("").String()
	}
	request := Request{Caller: caller, AcceptRisk: d.options.AcceptRisk, DryRun: d.options.DryRun, Batch: lists.Batch{
		Ops: []lists.Operation{{Op: lists.OpImport, Pack: d.pack, Replace: d.replace}}, By: caller.User, Via: caller.Via}}
	var reply Reply
	if request.DryRun {
		reply, err = s.backend.Apply(ctx, request)
	} else {
		reply, err = s.audited(ctx, request, []Operation{{Op: "import"}})
	}
	if err != nil {
		return nil, asError(err)
	}
	i := reply.Imported
	return &output[wireImportReply]{wireImportReply{Generation: reply.Generation, Added: i.Added, Updated: i.Replaced, Unchanged: i.Unchanged, Removed: i.Removed,
		Notes: append(notNil(d.notes), reply.Notes...)}}, nil
}

// importDecoder turns the lines of an import into a pack.
type importDecoder struct {
	decoder
	options wireImportOptions
	pack    *lists.Pack
	replace lists.List
	as      lists.Entry // checked, but for its identifier
	ready   bool        // as is set
	notes   []string
}

// read reads up to the line that says end.
func (d *importDecoder) read(body io.Reader) error {
	in := bufio.NewReaderSize(body, maxImportLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return invalid("entry %d: a line has more than %d bytes", d.pack.Len()+1, maxImportLine)
		case err != nil:
			return invalid("import was cut after %d entries: nothing was changed", d.pack.Len())
		}
		line = line[:len(line)-1]
		if len(line) > 2 && line[0] == '"' {
			err = d.address(line)
		} else {
			var end bool
			if end, err = d.line(line); end && err == nil {
				return nil
			}
		}
		if err != nil {
			return inEntry(err, d.pack.Len()+1)
		}
		if d.pack.Size() > MaxImport {
			return invalid("import is larger than the daemon takes: %d entries need more than %d bytes", d.pack.Len(), MaxImport)
		}
	}
}

func inEntry(err error, n int) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Code: CodeInvalid, Message: err.Error()}
	}
	e.Message = fmt.Sprintf("entry %d: %s", n, e.Message)
	return e
}

// address takes a line that is a JSON string.
func (d *importDecoder) address(line []byte) error {
	text := string(bytes.Trim(line, `"`))
	if !d.ready {
		return invalid("address %s comes before what it is added as", lists.Quote(text))
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return d.pack.AddPrefix(d.as, netip.PrefixFrom(a, a.BitLen()))
	}
	id, note, err := lists.ParseID(lists.KindIP, "", text)
	if err != nil {
		return err
	}
	d.note(note)
	prefix, _ := id.Prefix()
	return d.pack.AddPrefix(d.as, prefix)
}

func (d *importDecoder) note(text string) {
	if text != "" && len(d.notes) < 8 {
		d.notes = append(d.notes, text)
	}
}

// line takes a line that is a JSON object.
func (d *importDecoder) line(line []byte) (end bool, err error) {
	var w wireImportLine
	in := json.NewDecoder(bytes.NewReader(line))
	in.DisallowUnknownFields()
	if !utf8.Valid(line) {
		return false, invalid("a line is not valid UTF-8")
	}
	if err := in.Decode(&w); err != nil {
		return false, invalid("a line is not what an import is made of: %v", err)
	}
	switch {
	case w.Options != nil:
		if d.options = *w.Options; w.Options.Replace != "" {
			d.replace, err = lists.ParseList(w.Options.Replace)
		}
	case w.As != nil:
		d.as, _, err = d.entry(*w.As, lists.ID{Kind: lists.KindIP, Value: "0.0.0.0"})
		d.ready = err == nil
	case w.Entry != nil:
		return false, d.one(*w.Entry)
	case w.End && w.Count != d.pack.Len():
		return false, invalid("import has %d entries instead of %d: nothing was changed", d.pack.Len(), w.Count)
	case w.End:
		return true, nil
	default:
		return false, invalid("an empty line")
	}
	return false, err
}

func (d *importDecoder) one(w wireImportEntry) error {
	e, note, err := d.entry(w, lists.ID{})
	if err != nil {
		return err
	}
	d.note(note)
	return d.pack.Add(e)
}

// entry checks an entry as an add is checked; with an identifier only the rest of it.
func (d *importDecoder) entry(w wireImportEntry, id lists.ID) (lists.Entry, string, error) {
	op := Operation{Op: "add", List: w.List, Kind: w.Kind, Name: w.Name, Value: w.Value, Source: w.Source, Reason: w.Reason, Comment: w.Comment, For: w.For}
	if id.Kind != 0 {
		op.Kind, op.Value = id.Kind.String(), id.Value
	}
	added, note, err := d.add(op)
	if err != nil {
		return lists.Entry{}, "", err
	}
	e := added.Entry
	if w.Expires != nil {
		if w.For != 0 {
			return lists.Entry{}, "", invalid("both for and expires given: give one")
		}
		if e.Expires = *w.Expires; !e.Expires.After(d.now) || e.Expires.After(d.now.Add(lists.MaxFor)) {
			return lists.Entry{}, "", invalid("end %s: expected a time after now, at most 100 years away", e.Expires.Format(time.RFC3339))
		}
	}
	if d.root && !w.Created.IsZero() {
		e.Created = w.Created
	}
	if d.root && w.By != "" {
		if err := checkText("by", w.By); err != nil {
			return lists.Entry{}, "", err
		}
		e.By = w.By
	}
	return e, note, nil
}
