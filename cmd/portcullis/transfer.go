package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/format"
	"github.com/portcullis/portcullis/userspace/control"
)

// maxTold is how many lines of one sort a command says on standard error; then it counts.
const maxTold = 8

// importing is one run of import.
type importing struct {
	*call
	name    string     // of the file
	list    lists.List // 0: each entry says which
	end     control.Operation
	skip    bool // leave out what is invalid
	reason  string
	comment string
	now     time.Time
	invalid int // lines left out
	ended   int // entries left out, for their end has come
	told    int // notes
	bar     *progressbar.ProgressBar
}

func runImport(c *call) error {
	m := &importing{call: c, name: c.arg(1), skip: c.has("skip-invalid"), reason: c.cli.String("reason"), comment: c.cli.String("comment"), now: time.Now()}
	if c.arg(0) != "all" {
		var err error
		if m.list, err = lists.ParseList(c.arg(0)); err != nil {
			return err
		}
	}
	if c.has("replace") && m.list == 0 {
		return &usageError{"--replace is for one list", "import whitelist or import blacklist"}
	}
	if err := c.end(&m.end); err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	in, err := m.open()
	if err != nil {
		return err
	}
	defer in.Close()
	list, err := format.Open(m.progress(in), format.Format(c.cli.String("format")))
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	defer list.Close()
	options := control.ImportOptions{AcceptRisk: c.list("accept-risk"), DryRun: c.has("dry-run")}
	if c.has("replace") {
		options.Replace = m.list
	}
	reply, err := cl.Import(c.ctx, options, m.entries(list))
	m.clearBar()
	if err != nil {
		return err
	}
	return m.report(list.Format(), reply, options.DryRun)
}

// open opens the file, or standard input for "-".
func (m *importing) open() (*os.File, error) {
	if m.name == "-" {
		m.name = "standard input"
		if f, ok := m.in.(*os.File); ok {
			return f, nil
		}
	}
	f, err := os.Open(m.name)
	if err != nil {
		return nil, &usageError{"read list: " + err.Error(), "name a file that you may read, or - for standard input"}
	}
	return f, nil
}

// progress shows a bar while a file is read, if somebody looks at standard error.
func (m *importing) progress(f *os.File) io.Reader {
	terminal, ok := m.err.(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return f
	}
	size := int64(-1)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	m.bar = progressbar.NewOptions64(size, progressbar.OptionSetWriter(terminal), progressbar.OptionSetDescription("reading "+oneLine(m.name)),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	r := progressbar.NewReader(f, m.bar)
	return &r
}

func (m *importing) clearBar() {
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}

// say is note, with the bar out of the way.
func (m *importing) say(text string) {
	m.clearBar()
	m.note(text)
}

// entries turns what the file says into what is sent. What is invalid ends it, or is left out and told.
func (m *importing) entries(list *format.Reader) iter.Seq2[control.ImportEntry, error] {
	return func(yield func(control.ImportEntry, error) bool) {
		for item, err := range list.Items() {
			var at *format.Error
			if err == nil {
				err = m.fill(&item)
			}
			switch {
			case err == nil:
			case errors.As(err, &at) && m.skip && !at.Last:
				if m.invalid++; m.invalid <= maxTold {
					m.say(fmt.Sprintf("%s: %s; left out", m.name, err))
				}
				continue
			case errors.Is(err, lists.ErrInvalid):
				yield(control.ImportEntry{}, &usageError{fmt.Sprintf("%s: %s", m.name, err), "nothing was changed; mend the line, or leave out what is invalid with --skip-invalid"})
				return
			default:
				yield(control.ImportEntry{}, fmt.Errorf("%s: %w", m.name, err))
				return
			}
			if item.For == 0 && item.Expired(m.now) {
				m.ended++
				continue
			}
			if item.Note != "" {
				if m.told++; m.told <= maxTold {
					m.say(fmt.Sprintf("%s: line %d: %s", m.name, item.Line, item.Note))
				}
			}
			if !yield(control.ImportEntry{Entry: item.Entry, For: item.For}, nil) {
				return
			}
		}
		if m.bar != nil {
			m.bar.Describe("waiting until it is enforced")
		}
	}
}

// fill adds what the command line says to what the file says.
func (m *importing) fill(item *format.Item) error {
	bad := func(text string, args ...any) error {
		return &format.Error{Line: item.Line, Err: fmt.Errorf("%w entry: "+text, append([]any{lists.ErrInvalid}, args...)...)}
	}
	switch {
	case item.List == 0 && m.list == 0:
		return bad("it does not say of which list it is: import whitelist or import blacklist")
	case item.List != 0 && m.list != 0 && item.List != m.list:
		return bad("it is of the %s: import all takes entries of both lists", item.List)
	case item.List == 0:
		item.List = m.list
	}
	if item.Source == 0 {
		item.Source = lists.Manual
	}
	switch {
	case m.end.For > 0:
		item.For, item.Expires = m.end.For, time.Time{}
	case m.end.Until != "":
		item.For = 0
		item.Expires, _ = time.Parse(time.RFC3339, m.end.Until)
	}
	if item.Reason == "" {
		item.Reason = m.reason
	}
	if item.Comment == "" {
		item.Comment = m.comment
	}
	return nil
}

// report says what the import came to.
func (m *importing) report(f format.Format, r control.ImportReply, plan bool) error {
	for _, n := range r.Notes {
		m.note(n)
	}
	for _, left := range []struct {
		count int
		text  string
	}{
		{m.invalid, "%d invalid lines were left out"}, {m.ended, "%d entries were left out, for their end has come"},
	} {
		if left.count > 0 {
			m.note(fmt.Sprintf(left.text, left.count))
		}
	}
	if m.told > maxTold {
		m.note(fmt.Sprintf("%d more had host bits set or a space at an end", m.told-maxTold))
	}
	if m.json() {
		return writeJSON(m.out, map[string]any{
			"format": f, "dry_run": plan, "generation": r.Generation, "added": r.Added, "updated": r.Replaced, "unchanged": r.Unchanged, "removed": r.Removed,
			"invalid": m.invalid, "ended": m.ended,
		})
	}
	verb := "Import"
	if plan {
		verb = "Import would be"
	}
	fmt.Fprintf(m.out, "%s: %d added, %d updated, %d already there", verb, r.Added, r.Replaced, r.Unchanged)
	if m.has("replace") {
		fmt.Fprintf(m.out, ", %d removed", r.Removed)
	}
	fmt.Fprintln(m.out)
	return nil
}

func runExport(c *call) error {
	all := []lists.List{lists.Whitelist, lists.Blacklist}
	if name := c.arg(0); name != "" && name != "all" {
		l, err := lists.ParseList(name)
		if err != nil {
			return err
		}
		all = []lists.List{l}
	}
	f := format.Format(c.cli.String("format"))
	if f == "" {
		f = format.JSON
	}
	if len(all) > 1 && f != format.JSON && f != format.CSV {
		return &usageError{fmt.Sprintf("%s cannot say of which list an entry is", f), "export whitelist or export blacklist; or --format json or csv"}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	now := time.Now()
	out, err := format.NewWriter(c.out, f, now)
	if err != nil {
		return &outputError{err}
	}
	for _, l := range all {
		for e, err := range cl.List(c.ctx, l) {
			if err != nil {
				return err
			}
			if e.Expired(now) {
				continue
			}
			if err := out.Write(e); err != nil {
				return &outputError{err}
			}
		}
	}
	if err := out.Close(); err != nil {
		return &outputError{err}
	}
	if n := out.Skipped(); n > 0 {
		c.note(fmt.Sprintf("%d entries were left out: %s takes addresses only", n, f))
	}
	return nil
}
