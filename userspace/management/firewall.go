package management

import (
	"bufio"
	"encoding/json"
	"iter"
	"slices"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// getWhitelist streams the whitelist: it may be long.
func getWhitelist(c *call) (any, error) {
	return listing{{"whitelist", c.Snapshot().Entries(lists.Whitelist)}}, nil
}

// getBlacklist streams the sections of the blacklist that are asked for, empty ones included.
func getBlacklist(c *call) (any, error) {
	wanted, err := c.tagged()
	if err != nil {
		return nil, err
	}
	snapshot := c.Snapshot()
	var all listing
	for _, s := range sections {
		if slices.Contains(wanted, s.source) {
			all = append(all, section{s.key, snapshot.Section(lists.Blacklist, s.source)})
		}
	}
	return all, nil
}

func toEntry(e lists.Entry) entry {
	return entry{Type: e.ID.Kind.String(), Name: e.ID.Name, Value: e.ID.Value, Reason: e.Reason, Comment: e.Comment}
}

// addEntry adds the identifier of the body.
func addEntry(l lists.List) func(*call) (any, error) {
	return func(c *call) (any, error) {
		var e entry
		if err := c.read(&e); err != nil {
			return nil, err
		}
		reply, err := c.apply(control.Operation{
			Op: "add", List: l.String(), Kind: e.Type, Name: e.Name, Value: e.Value, For: e.For, Reason: e.Reason, Comment: e.Comment,
		})
		if err != nil {
			return nil, err
		}
		what := map[lists.Outcome]string{lists.Added: "added to", lists.Replaced: "updated in", lists.Unchanged: "already in"}[reply.Outcomes[0]]
		return success("%s %s %s", name(e), what, l), nil
	}
}

// deleteEntry deletes the identifier of the body; without one it clears what ?tag= names. A clear has to say so: many
// clients lose the body of a DELETE, and losing it must not unblock everybody.
func deleteEntry(l lists.List) func(*call) (any, error) {
	return func(c *call) (any, error) {
		if len(c.body) == 0 {
			return clear(c, l)
		}
		var e entry
		if err := c.read(&e); err != nil {
			return nil, err
		}
		if e.For != 0 || e.Reason != "" || e.Comment != "" || c.query("tag") != "" {
			return nil, invalid("to delete an identifier give its type, name and value, and no tag")
		}
		reply, err := c.apply(control.Operation{Op: "delete", List: l.String(), Kind: e.Type, Name: e.Name, Value: e.Value})
		if err != nil {
			return nil, err
		}
		if reply.Outcomes[0] == lists.NotFound {
			return nil, &control.Error{Code: control.CodeNotFound, Message: name(e) + " is not in " + l.String()}
		}
		return success("%s deleted from %s", name(e), l), nil
	}
}

func clear(c *call, l lists.List) (any, error) {
	tag := c.query("tag")
	if tag == "" {
		return nil, invalid("what is to be deleted? Give an identifier in the body, or clear the list with ?tag=all")
	}
	op := control.Operation{Op: "clear", List: l.String()}
	if tag != "all" {
		sources, err := c.tagged()
		if err != nil || l == lists.Whitelist {
			return nil, invalid("tag %s: the %s has no such part", lists.Quote(tag), l)
		}
		op.Op = "clear_sources"
		for _, s := range sources {
			op.Sources = append(op.Sources, s.String())
		}
	}
	if _, err := c.apply(op); err != nil {
		return nil, err
	}
	return success("%s cleared", map[lists.List]string{lists.Whitelist: "Whitelist", lists.Blacklist: "Blacklist"}[l]), nil
}

// name is an entry as commands print it.
func name(e entry) string {
	if e.Name == "" {
		return e.Type + " " + e.Value
	}
	return e.Type + " " + e.Name + " " + e.Value
}

// listing is an object of lists that is written entry by entry.
type listing []section

type section struct {
	key     string
	entries iter.Seq[lists.Entry]
}

func (l listing) write(w *bufio.Writer) error {
	for i, s := range l {
		key, err := json.Marshal(s.key)
		if err != nil {
			return err
		}
		w.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		w.Write(key)
		w.WriteString(":[")
		first := true
		for e := range s.entries {
			text, err := json.Marshal(toEntry(e))
			if err != nil {
				return err
			}
			if !first {
				w.WriteByte(',')
			}
			first = false
			if _, err := w.Write(text); err != nil {
				return err
			}
		}
		w.WriteByte(']')
	}
	w.WriteString("}\n")
	return w.Flush()
}
