package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/lists"
)

// role is what one element of argv turned out to be. Every element gets one, or the whole command line is refused.
type role uint8

const (
	roleNone role = iota
	roleFlag
	roleFlagValue
	roleCommand
	roleArg
	roleTerminator // "--" where a flag could stand
)

// given is a flag as it was given.
type given struct {
	name  string
	value string
	bare  bool // without a value
}

// secret is the part of an argv element that must not be seen in the process list.
type secret struct{ index, offset int }

// invocation is a command line, read.
type invocation struct {
	cmd     *command
	flags   []given
	args    []string
	roles   []role
	secrets []secret // set even when reading failed
}

// usageError is a command line that cannot be understood: exit code 2.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

// parser reads argv (without the program's name) by the table.
type parser struct {
	table []*command
	argv  []string
	pos   int
	ended bool // after "--"
	inv   invocation
}

// readArgv reads a command line. Flags may stand anywhere but in a value's place: after KIND the next words are the
// values that kind takes, whatever they begin with. An unknown flag, a flag the command does not take or that is
// given twice, and a surplus or missing argument are a [usageError]: nothing is silently ignored.
func readArgv(table []*command, argv []string) (invocation, error) {
	p := &parser{table: table, argv: argv, inv: invocation{roles: make([]role, len(argv))}}
	err := p.read()
	return p.inv, err
}

func (p *parser) read() error {
	for p.pos < len(p.argv) {
		tok := p.argv[p.pos]
		if !p.ended && !p.inValue() && isFlag(tok) {
			if err := p.flag(tok); err != nil {
				return err
			}
			continue
		}
		if p.inv.cmd == nil {
			if p.inv.cmd = findCommand(p.table, tok); p.inv.cmd == nil {
				return p.unknownCommand(tok)
			}
			p.take(roleCommand)
			continue
		}
		p.inv.args = append(p.inv.args, tok)
		p.take(roleArg)
	}
	return p.finish()
}

// take gives the present element its role and moves on.
func (p *parser) take(r role) {
	p.inv.roles[p.pos] = r
	p.pos++
}

// isFlag reports whether a word in a flag's place is one. A lone "-" is a word.
func isFlag(tok string) bool { return len(tok) > 1 && tok[0] == '-' }

// inValue reports whether the next word stands in a value's place: after KIND, until its values are complete.
func (p *parser) inValue() bool {
	if p.inv.cmd == nil || !p.inv.cmd.kind || len(p.inv.args) == 0 {
		return false
	}
	k := findKind(p.inv.args[0])
	return k != nil && len(p.inv.args) <= len(k.values)
}

// lookup splits a flag word into its definition and the value after "=".
func lookup(tok string) (f *flagDef, value string, joined bool) {
	name, value, joined := strings.Cut(tok, "=")
	if long, ok := strings.CutPrefix(name, "--"); ok {
		if f = findFlag(long); f != nil && f.short == long && f.name != long {
			f = nil // --u
		}
		return f, value, joined
	}
	if f = findFlag(name[1:]); f != nil && f.short != name[1:] {
		f = nil // -user
	}
	return f, value, joined
}

func (p *parser) flag(tok string) error {
	if tok == "--" {
		p.ended = true
		p.take(roleTerminator)
		return nil
	}
	f, value, joined := lookup(tok)
	if f == nil {
		return p.unknownFlag(tok)
	}
	at := p.pos
	p.take(roleFlag)
	g := given{name: f.name, value: value, bare: !joined}
	switch {
	case joined && f.takes == takesNothing:
		return &usageError{fmt.Sprintf("--%s takes no value, got %s", f.name, lists.Quote(value)), "leave out what follows the ="}
	case joined && f.secret:
		p.inv.secrets = append(p.inv.secrets, secret{at, len(tok) - len(value)})
	case joined:
	case f.takes == takesValue && p.pos == len(p.argv):
		return &usageError{fmt.Sprintf("--%s needs a value: --%s %s", f.name, f.name, f.value), f.help}
	case f.takes == takesValue, f.takes == takesOptional && p.passwordFollows():
		g.value, g.bare = p.argv[p.pos], false
		if f.secret {
			p.inv.secrets = append(p.inv.secrets, secret{p.pos, 0})
		}
		p.take(roleFlagValue)
	}
	if !f.many && slices.ContainsFunc(p.inv.flags, func(o given) bool { return o.name == f.name }) {
		return &usageError{fmt.Sprintf("--%s is given twice", f.name), "give it once"}
	}
	p.inv.flags = append(p.inv.flags, g)
	return nil
}

// passwordFollows decides whether the word after a bare -p is the password. It is, unless
//   - there is none, or it is a flag of the table (write --password=VALUE for a password that looks like one);
//   - it is a command's name, no command came before, and the next word that is neither a flag nor a flag's value is
//     not a command's name: then it is the command, and the password is asked for.
func (p *parser) passwordFollows() bool {
	if p.pos == len(p.argv) {
		return false
	}
	tok := p.argv[p.pos]
	if isFlag(tok) {
		f, _, _ := lookup(tok)
		return f == nil && tok != "--"
	}
	if p.inv.cmd != nil || findCommand(p.table, tok) == nil {
		return true
	}
	for i := p.pos + 1; i < len(p.argv); i++ {
		next := p.argv[i]
		if !isFlag(next) {
			return findCommand(p.table, next) != nil
		}
		if f, _, joined := lookup(next); f != nil && f.takes == takesValue && !joined {
			i++
		}
	}
	return false
}

// finish checks flags and arguments against the command. Asking for help makes any of them fit.
func (p *parser) finish() error {
	inv := &p.inv
	if slices.ContainsFunc(inv.flags, func(g given) bool { return g.name == "help" }) {
		return p.askHelp()
	}
	if inv.cmd == nil {
		if len(inv.flags) > 0 {
			return &usageError{"no command given", "portcullis help lists the commands"}
		}
		inv.cmd = findCommand(p.table, "help")
	}
	for _, g := range inv.flags {
		if !inv.cmd.allows(g.name) {
			return &usageError{fmt.Sprintf("%s takes no --%s", inv.cmd.name, g.name), seeHelp(inv.cmd)}
		}
		if err := checkValue(findFlag(g.name), g.value); err != nil {
			return err
		}
	}
	if inv.cmd.kind {
		return checkKind(inv.cmd, inv.args)
	}
	return checkArgs(inv.cmd, inv.args)
}

// checkValue checks what can be checked of a flag's value without knowing the command.
func checkValue(f *flagDef, value string) error {
	switch {
	case f.takes != takesValue:
	case f.words != nil && !hasWord(f.words, value):
		return &usageError{fmt.Sprintf("unknown --%s %s: expected %s", f.name, lists.Quote(value), wordList(f.words)), f.help}
	case value == "":
		return &usageError{fmt.Sprintf("--%s is empty", f.name), f.help}
	}
	return nil
}

func hasWord(words []word, text string) bool {
	return slices.ContainsFunc(words, func(w word) bool { return w.text == text })
}

// askHelp turns "COMMAND ... --help" into "help COMMAND". What else was typed has no effect then.
func (p *parser) askHelp() error {
	args := p.inv.args
	if p.inv.cmd != nil && p.inv.cmd.name != "help" {
		args = []string{p.inv.cmd.name}
	}
	p.inv.cmd, p.inv.args, p.inv.flags = findCommand(p.table, "help"), args, nil
	return checkArgs(p.inv.cmd, args)
}

// seeHelp is the hint of most usage errors.
func seeHelp(c *command) string { return "portcullis help " + c.name }

// usageOf is the hint that shows how a command is written.
func usageOf(c *command) string { return "usage: " + c.synopsis() }

// checkKind checks "KIND [NAME] VALUE".
func checkKind(c *command, args []string) error {
	var names []word
	for _, k := range kinds {
		names = append(names, word{text: k.name})
	}
	if len(args) == 0 {
		return &usageError{c.name + " needs a kind: " + wordList(names), usageOf(c)}
	}
	k := findKind(args[0])
	if k == nil {
		return &usageError{fmt.Sprintf("unknown kind %s: expected %s", lists.Quote(args[0]), wordList(names)), usageOf(c)}
	}
	usage := fmt.Sprintf("usage: %s %s", c.name, k.usage())
	have := len(args) - 1
	if have < len(k.values) {
		return &usageError{fmt.Sprintf("%s %s needs %s", c.name, k.name, strings.Join(k.values[have:], " and ")), usage}
	}
	if have > len(k.values) {
		hint := usage
		if k.name == "username" {
			hint = `put a username with spaces in quotes: username "your name"`
		}
		return &usageError{fmt.Sprintf("surplus argument %s after %s", lists.Quote(args[len(k.values)+1]), k.usage()), hint}
	}
	return nil
}

// checkArgs checks the arguments of the other commands.
func checkArgs(c *command, args []string) error {
	for i, v := range args {
		place := min(i, len(c.args)-1)
		if place < 0 || i >= len(c.args) && !c.args[place].repeat {
			return &usageError{fmt.Sprintf("surplus argument %s", lists.Quote(v)), usageOf(c)}
		}
		a := c.args[place]
		if a.words != nil && !hasWord(a.words, v) {
			return &usageError{fmt.Sprintf("unknown %s %s: expected %s", strings.ToLower(a.name), lists.Quote(v), wordList(a.words)), usageOf(c)}
		}
	}
	if len(args) < len(c.args) && !c.args[len(args)].optional {
		a := c.args[len(args)]
		return &usageError{fmt.Sprintf("%s needs %s: %s", c.name, a.name, cmp.Or(wordList(a.words), a.help)), usageOf(c)}
	}
	return nil
}

func (p *parser) unknownCommand(tok string) error {
	hint := "portcullis help lists the commands"
	if rest, ok := strings.CutPrefix(tok, "–"); ok { // pasted from a document that made a dash of the hyphen
		hint = fmt.Sprintf("that is a dash, not a hyphen: type -%s", oneLine(rest))
	} else if near := nearest(tok, commandNames(p.table)); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return &usageError{"unknown command " + lists.Quote(tok), hint}
}

func (p *parser) unknownFlag(tok string) error {
	name, _, _ := strings.Cut(tok, "=")
	hint := "portcullis help lists the flags"
	var names []string
	for _, f := range flags {
		if p.inv.cmd == nil || p.inv.cmd.allows(f.name) {
			names = append(names, "--"+f.name)
		}
	}
	if p.inv.cmd != nil {
		hint = seeHelp(p.inv.cmd)
	}
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return &usageError{"unknown flag " + lists.Quote(name), hint}
}

func commandNames(table []*command) []string {
	var names []string
	for _, c := range table {
		names = append(names, c.name)
	}
	return names
}

// nearest returns the name at most two edits away from what was typed (one for each three letters: "nope" is no "top"), or "".
func nearest(typed string, names []string) string {
	best, found := min(2, len(typed)/3)+1, ""
	if len(typed) > 64 {
		return ""
	}
	for _, n := range names {
		if d := distance(typed, n); d < best {
			best, found = d, n
		}
	}
	return found
}

// distance counts the single-byte edits between two short strings (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
