package main

import (
	"fmt"
	"io"
	"strings"
)

func runMan(c *call) error {
	writeMan(c.out, commands())
	return nil
}

// roff writes a manual page with the man(7) macros.
type roff struct{ w io.Writer }

// escape makes text literal: backslashes, hyphens, and a dot or quote that would begin a request.
func (roff) escape(s string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

func (r roff) section(name string)    { fmt.Fprintf(r.w, ".SH %s\n", strings.ToUpper(name)) }
func (r roff) subsection(name string) { fmt.Fprintf(r.w, ".SS %s\n", r.escape(name)) }
func (r roff) text(s string)          { fmt.Fprintln(r.w, r.escape(wrap(s, 100))) }
func (r roff) paragraph(s string)     { fmt.Fprintln(r.w, ".PP"); r.text(s) }

// item writes a term in bold and its paragraphs, indented.
func (r roff) item(term string, paragraphs ...string) {
	fmt.Fprintf(r.w, ".TP\n\\fB%s\\fR\n", r.escape(term))
	for i, p := range paragraphs {
		if i > 0 {
			fmt.Fprintln(r.w, ".IP")
		}
		r.text(p)
	}
}

func (r roff) example(lines ...string) {
	fmt.Fprint(r.w, ".PP\n.nf\n.RS\n")
	for _, l := range lines {
		fmt.Fprintln(r.w, r.escape(l))
	}
	fmt.Fprint(r.w, ".RE\n.fi\n")
}

func writeMan(w io.Writer, table []*command) {
	r := roff{w}
	fmt.Fprintf(w, ".TH PORTCULLIS 1 \"\" \"%s\" \"User Commands\"\n", r.escape("portcullis "+buildVersion()))
	r.section("Name")
	fmt.Fprintln(w, `portcullis \- block packets and HTTP requests of listed clients`)
	r.section("Synopsis")
	fmt.Fprintln(w, `.B portcullis`)
	fmt.Fprintln(w, `[\fB\-u\fR \fIUSER\fR] [\fB\-p\fR [\fIPASSWORD\fR]] \fICOMMAND\fR [\fIARGUMENTS\fR]`)
	r.section("Description")
	r.text(tagline + " An admin keeps two lists: clients on the blacklist are blocked, those on the whitelist never are. " +
		"portcullis serve is the daemon; the other commands talk to it on a unix socket. cli.sh is the same program under the name scripts know.")
	r.section("Commands")
	for _, g := range groups {
		r.subsection(g)
		for _, c := range table {
			if c.group == g {
				r.item(c.synopsis(), manParagraphs(c)...)
			}
		}
	}
	r.section("Kinds")
	for _, k := range kinds {
		r.item(k.usage(), k.help)
	}
	r.section("Options")
	r.paragraph("Flags stand before or after the command, before KIND or after its values; each at most once unless it says more. -- ends them.")
	for i := range flags {
		r.item(flags[i].label(), flags[i].help+takers(&flags[i], table))
	}
	r.paragraph(passwordRule)
	r.section("Exit status")
	for _, e := range exitCodes {
		r.item(fmt.Sprint(e.code), e.help)
	}
	r.section("Environment")
	for _, v := range variables() {
		r.item(v.name, v.help)
	}
	r.section("Examples")
	r.example("portcullis serve --interface eth0",
		"cli.sh -u admin -p admin add_blacklist ip 1.1.1.1",
		"cli.sh -u admin -p admin add_blacklist ip 10.0.0.0/8 --for 4h --reason 'port scan'",
		"cli.sh -u admin -p admin view_blacklist -o json")
}

// manParagraphs is everything the table says of a command beyond its synopsis.
func manParagraphs(c *command) []string {
	all := append([]string{c.short + "."}, c.long...)
	for _, a := range c.args {
		if a.words != nil {
			all = append(all, a.name+" is "+wordList(a.words)+".")
		}
	}
	return all
}

// takers names the commands that take a flag, where that is not nearly all of them.
func takers(f *flagDef, table []*command) string {
	if containsFlag(globalFlags(), f) && f.name != "output" {
		return ""
	}
	var names []string
	for _, c := range table {
		if c.allows(f.name) {
			names = append(names, c.name)
		}
	}
	return " (" + strings.Join(names, ", ") + ")"
}
