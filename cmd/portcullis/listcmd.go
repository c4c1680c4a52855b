package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// listNoun is one of the two lists, as the list commands name it.
type listNoun lists.List

const (
	whitelist = listNoun(lists.Whitelist)
	blacklist = listNoun(lists.Blacklist)
)

// word is the list in the words of the commands: "whitelist".
func (l listNoun) word() string { return lists.List(l).String() }

// title begins a heading: "Whitelist".
func (l listNoun) title() string { return strings.ToUpper(l.word()[:1]) + l.word()[1:] }

// operation reads KIND [NAME] VALUE. The daemon gets what was typed, so that its notes can speak of it; id is the
// canonical form, which is what will be listed.
func (l listNoun) operation(c *call, op string) (o control.Operation, id lists.ID, err error) {
	k, err := lists.ParseKind(c.arg(0))
	if err != nil {
		return o, id, err
	}
	o = control.Operation{Op: op, List: l.word(), Kind: c.arg(0), Value: c.arg(1)}
	if k.Named() {
		o.Name, o.Value = c.arg(1), c.arg(2)
	}
	id, _, err = lists.ParseID(k, o.Name, o.Value)
	return o, id, err
}

func (l listNoun) add(c *call) error {
	op, id, err := l.operation(c, "add")
	if err != nil {
		return err
	}
	op.Reason, op.Comment = c.cli.String("reason"), c.cli.String("comment")
	if err := c.end(&op); err != nil {
		return err
	}
	outcome, err := c.apply(op)
	if err != nil {
		return err
	}
	text := map[lists.Outcome]string{
		lists.Added: "added to", lists.Replaced: "updated in", lists.Unchanged: "already in",
	}[outcome]
	if text == "" {
		return fmt.Errorf("add %s: the daemon answered %q: is it of another version?", id, outcome)
	}
	fmt.Fprintf(c.out, "%s %s %s\n", id, text, l.word())
	return nil
}

// end reads --for and --until.
func (c *call) end(op *control.Operation) error {
	duration, until := c.cli.IsSet("for"), c.cli.IsSet("until")
	switch {
	case duration && until:
		return &usageError{"--for and --until exclude each other", "give one of them"}
	case duration:
		d, err := lists.ParseFor(c.cli.String("for"))
		op.For = int64(d / time.Second)
		return err
	case until:
		t, err := lists.ParseUntil(c.cli.String("until"), time.Now(), time.Local)
		op.Until = t.Format(time.RFC3339)
		return err
	}
	return nil
}

func (l listNoun) delete(c *call) error {
	op, id, err := l.operation(c, "delete")
	if err != nil {
		return err
	}
	outcome, err := c.apply(op)
	if err != nil {
		return err
	}
	if outcome == lists.NotFound {
		return &control.Error{Code: control.CodeNotFound,
			Message: fmt.Sprintf("%s is not in %s", id, l.word()),
			Hint:    fmt.Sprintf("view_%s shows what is; a member of a listed CIDR is no entry of its own", l.word())}
	}
	fmt.Fprintf(c.out, "%s deleted from %s\n", id, l.word())
	return nil
}

// prompt is what the seed asks before a clear; the whitelist's ends in a space, the blacklist's does not.
func (l listNoun) prompt() string {
	p := fmt.Sprintf("This will delete all %s Attacks, Are you sure (y/n) :", l.word())
	if l == whitelist {
		p += " "
	}
	return p
}

func (l listNoun) clear(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	st, err := cl.Status(c.ctx) // nobody is asked while no daemon is there to do it
	if err != nil {
		return err
	}
	c.out.WriteString(l.prompt())
	if err := c.out.Flush(); err != nil {
		return &outputError{err}
	}
	if answer, err := readLine(c.in); err != nil || !isYes(answer) {
		c.out.WriteString("Action canceled\n")
		return nil
	}
	if _, err := c.applyWith(cl, control.Operation{Op: "clear", List: l.word()}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s cleared\n", l.title())
	if l == blacklist {
		c.noteRefill(st.Settings)
	}
	return nil
}

func isYes(answer string) bool {
	a := strings.ToLower(strings.TrimSpace(answer))
	return a == "y" || a == "yes"
}

// noteRefill says that detectors which are enabled will fill the blacklist again. ABS does not: no attack list is fetched.
func (c *call) noteRefill(on lists.Settings) {
	if on.ASEDetectedAttack {
		c.note("ASE detected attack is enabled and will fill the blacklist again; to stop it: disable_ase_detected_attack")
	}
}

// apply logs in and sends operations as one batch. It shows the daemon's notes and returns the first outcome.
func (c *call) apply(ops ...control.Operation) (lists.Outcome, error) {
	cl, err := c.client()
	if err != nil {
		return 0, err
	}
	return c.applyWith(cl, ops...)
}

func (c *call) applyWith(cl *control.Client, ops ...control.Operation) (lists.Outcome, error) {
	reply, err := cl.Apply(c.ctx, ops, c.list("accept-risk")...)
	if err != nil {
		return 0, err
	}
	if len(reply.Outcomes) != len(ops) {
		return 0, fmt.Errorf("the daemon answered %d of %d operations: is it of another version?", len(reply.Outcomes), len(ops))
	}
	for _, n := range reply.Notes {
		c.note(n)
	}
	return reply.Outcomes[0], nil
}
