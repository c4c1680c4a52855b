package main

import (
	"fmt"
	"io"
	"strings"
)

const tagline = "Portcullis blocks listed clients: their packets in the kernel, their HTTP requests in a layer of its own."

// passwordRule is the rule of parser.passwordFollows, for help and documents.
const passwordRule = "The word after -p is the password. It is asked for instead where nothing or a flag follows, or the name of a " +
	"command with no further command after it. Write --password=VALUE for a password that begins with a hyphen. " +
	"The password is wiped from the process list. Root on the daemon's host needs none."

// variable is an environment variable that the program reads.
type variable struct{ name, help string }

func variables() []variable {
	all := []variable{{passwordEnv, "the password, where neither -p nor --password-file gives it"}}
	for _, f := range flags {
		if f.env != "" {
			all = append(all, variable{f.env, "stands for --" + f.name})
		}
	}
	return append(all, variable{"PORTCULLIS_BIN", "cli.sh: the portcullis binary to run"})
}

// globalFlags are the flags that nearly every command takes.
func globalFlags() []*flagDef {
	var all []*flagDef
	for _, name := range append([]string{"output"}, append(loginFlags, "help")...) {
		all = append(all, findFlag(name))
	}
	return all
}

// ownFlags are the flags that help of a command shows: those that not every command takes.
func ownFlags(c *command) []*flagDef {
	var own []*flagDef
	global := globalFlags()
	for _, name := range c.flags {
		if f := findFlag(name); c.name == "serve" || name == "output" || !containsFlag(global, f) {
			own = append(own, f)
		}
	}
	return own
}

func containsFlag(all []*flagDef, f *flagDef) bool {
	for _, g := range all {
		if g == f {
			return true
		}
	}
	return false
}

func runHelp(c *call) error {
	table := commands()
	name := c.arg(0)
	if name == "" {
		writeHelp(c.out, table)
		return nil
	}
	about := findCommand(table, name)
	if about == nil {
		p := &parser{table: table}
		return p.unknownCommand(name)
	}
	writeCommandHelp(c.out, about)
	return nil
}

func writeHelp(w io.Writer, table []*command) {
	fmt.Fprintf(w, "%s\n\nusage: portcullis [-u USER] [-p [PASSWORD]] COMMAND [ARGUMENTS]\n", tagline)
	for _, g := range groups {
		fmt.Fprintf(w, "\n%s\n", g)
		for _, c := range table {
			if c.group == g {
				writeRow(w, c.synopsis(), c.short)
			}
		}
	}
	fmt.Fprint(w, "\nKinds\n")
	for _, k := range kinds {
		writeRow(w, k.usage(), k.help)
	}
	fmt.Fprint(w, "\nFlags, before or after the command\n")
	for _, f := range globalFlags() {
		writeRow(w, f.label(), f.help)
	}
	fmt.Fprint(w, "\nportcullis help COMMAND says more; portcullis man prints everything.\n")
}

func writeCommandHelp(w io.Writer, c *command) {
	fmt.Fprintf(w, "%s\n\nusage: portcullis %s\n", c.short, c.synopsis())
	for _, p := range c.long {
		fmt.Fprintf(w, "\n%s\n", wrap(p, 100))
	}
	if c.kind {
		fmt.Fprint(w, "\nKinds\n")
		for _, k := range kinds {
			writeRow(w, k.usage(), k.help)
		}
	}
	for _, a := range c.args {
		fmt.Fprintf(w, "\n%s\n", a.name)
		if a.words == nil {
			fmt.Fprintf(w, "  %s\n", a.help)
		}
		for _, v := range a.words {
			writeRow(w, v.text, v.help)
		}
	}
	for i, f := range ownFlags(c) {
		if i == 0 {
			fmt.Fprint(w, "\nFlags\n")
		}
		writeRow(w, f.label(), f.help)
	}
	if c.allows("user") {
		fmt.Fprint(w, "\nportcullis help lists the flags that every command takes.\n")
	}
}

// writeRow writes one line of a two-column list.
func writeRow(w io.Writer, left, right string) {
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("  %-34s %s", left, right), " "))
}

// wrap breaks text at spaces so that no line is longer than width, words longer than that excepted.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, w := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(w) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(w)
		column += len(w)
	}
	return b.String()
}
