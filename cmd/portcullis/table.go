package main

import (
	"fmt"
	"strings"
)

// word is one of the fixed words an argument may be.
type word struct {
	text  string
	help  string
	alias bool // accepted, but not offered by help and completion
}

// arg is one place in a command's arguments.
type arg struct {
	name     string
	help     string
	optional bool
	repeat   bool   // any number from here on; only in the last place
	file     bool   // completion offers files
	words    []word // nil: any text
}

// kind is a sort of client identifier and the values that follow it on the command line.
type kind struct {
	name   string
	values []string
	help   string
}

// kinds are those of the seed, in its order.
var kinds = []kind{
	{"ip", []string{"ADDRESS"}, "an IPv4 or IPv6 address or CIDR"},
	{"cookie", []string{"NAME", "VALUE"}, "a session cookie"},
	{"token", []string{"VALUE"}, "an OAuth2 token"},
	{"api_key", []string{"NAME", "VALUE"}, "an API key in a header or query parameter"},
	{"username", []string{"VALUE"}, "a user name; one with spaces in quotes"},
}

// findKind returns the kind of that name, or nil.
func findKind(name string) *kind {
	for i := range kinds {
		if kinds[i].name == name {
			return &kinds[i]
		}
	}
	return nil
}

// usage is the kind with its values: "cookie NAME VALUE".
func (k kind) usage() string { return k.name + " " + strings.Join(k.values, " ") }

// takes says what follows a flag.
type takes uint8

const (
	takesNothing takes = iota
	takesValue
	takesOptional // -p: a value or a prompt, see parser.password
)

// flagDef is one flag. A name means the same everywhere.
type flagDef struct {
	name   string
	short  string
	takes  takes
	value  string // what stands for the value in help
	help   string
	env    string
	many   bool // may be given more than once
	secret bool
	words  []word // what completion offers
	file   bool   // completion offers files
}

// label is the flag as help shows it: "-o, --output FORMAT".
func (f flagDef) label() string {
	s := "--" + f.name
	if f.short != "" {
		s = "-" + f.short + ", " + s
	}
	switch f.takes {
	case takesValue:
		s += " " + f.value
	case takesOptional:
		s += " [" + f.value + "]"
	}
	return s
}

// flags are all flags there are. The groups below say which command takes which.
var flags = []flagDef{
	{name: "user", short: "u", takes: takesValue, value: "USER", help: "log in as USER; with a password alone: admin"},
	{name: "password", short: "p", takes: takesOptional, value: "PASSWORD", secret: true,
		help: "the password; without a value it is asked for"},
	{name: "password-file", takes: takesValue, value: "FILE", file: true, help: "read the password from the first line of FILE"},
	{name: "socket", takes: takesValue, value: "PATH", file: true, env: "PORTCULLIS_SOCKET", help: "the daemon's socket"},
	{name: "output", short: "o", takes: takesValue, value: "FORMAT", help: "text (as ASE prints it) or json",
		words: []word{{text: "text"}, {text: "json"}}},
	{name: "for", takes: takesValue, value: "DURATION", help: "end the entry after DURATION: 90s, 15m, 4h, 30d, 2w"},
	{name: "until", takes: takesValue, value: "TIME",
		help: "end the entry at TIME: 2030-01-31T18:00:00Z, or 2030-01-31 18:00 in local time"},
	{name: "reason", takes: takesValue, value: "TEXT", help: "say why"},
	{name: "comment", takes: takesValue, value: "TEXT", help: "a note for colleagues"},
	{name: "accept-risk", takes: takesValue, value: "RISK", many: true,
		help: "do it although the named risk stands (the refusal names it); may be repeated"},
	{name: "format", takes: takesValue, value: "FORMAT", help: "the format of a list: " + wordList(listFormats) + "; import finds it by itself",
		words: listFormats},
	{name: "dry-run", takes: takesNothing, help: "say what would change, and change nothing"},
	{name: "replace", takes: takesNothing, help: "remove the manual entries of the list that the file does not hold, in the same change"},
	{name: "skip-invalid", takes: takesNothing, help: "leave out lines that are invalid; without it one of them stops the import"},
	{name: "limit", takes: takesValue, value: "N", help: "show at most N events, the newest; 0 shows all (default 100)"},
	{name: "interface", takes: takesValue, value: "IF[,IF...]", many: true, help: "these network interfaces: to be guarded, or of which to show packets"},
	{name: "mode", takes: takesValue, value: "MODE", help: "how to attach: native, generic or native-then-generic",
		words: []word{{text: "native"}, {text: "generic"}, {text: "native-then-generic"}}},
	{name: "state-dir", takes: takesValue, value: "DIR", file: true, env: "PORTCULLIS_STATE_DIR", help: "where the lists are kept"},
	{name: "pin-dir", takes: takesValue, value: "DIR", file: true, env: "PORTCULLIS_PIN_DIR",
		help: "where program, links and maps are pinned"},
	{name: "metrics", takes: takesValue, value: "HOST:PORT", help: "show metrics to Prometheus there (default: nowhere)"},
	{name: "http", takes: takesNothing, help: "ask about an HTTP request in place of addresses"},
	{name: "header", short: "H", takes: takesValue, value: "'NAME: VALUE'", many: true, secret: true, help: "a header of the request; may be repeated"},
	{name: "cookie", short: "b", takes: takesValue, value: "'NAME=VALUE; ...'", many: true, secret: true, help: "cookies of the request"},
	{name: "basic", takes: takesValue, value: "NAME:PASSWORD", secret: true, help: "HTTP Basic authentication of the request (curl's -u, which is the login here)"},
	{name: "user-agent", short: "A", takes: takesValue, value: "NAME", help: "the user agent of the request"},
	{name: "request", short: "X", takes: takesValue, value: "METHOD", help: "the method of the request (default GET)"},
	{name: "from", takes: takesValue, value: "ADDRESS", help: "why: the address that the request comes from (default: not known); watch: only packets from this address or CIDR"},
	{name: "interval", takes: takesValue, value: "DURATION", help: "measure for so long before each table (default 1s)"},
	{name: "count", short: "n", takes: takesValue, value: "N", help: "end after N tables or lines; 0: never (default: 0, but 1 for tables that are not on a terminal)"},
	{name: "to", takes: takesValue, value: "ADDRESS", help: "only packets to this address or CIDR"},
	{name: "protocol", takes: takesValue, value: "NAME", many: true, help: "only packets of this protocol: tcp, udp, icmp, icmpv6, sctp, esp, gre, or a number"},
	{name: "port", takes: takesValue, value: "N", help: "only packets to this port"},
	{name: "source", takes: takesValue, value: "SOURCE", many: true, help: "only packets that entries of this source drop: " + wordList(filters[1:]),
		words: filters[1:]},
	{name: "drop", takes: takesValue, value: "REASON", many: true, help: "only packets dropped for this reason: " + wordList(dropReasons), words: dropReasons},
	{name: "write", short: "w", takes: takesValue, value: "FILE", file: true, help: "write the packets to FILE (-: standard output) as pcapng, and print nothing"},
	{name: "config", takes: takesValue, value: "FILE", file: true, help: "read a TOML file; flags and environment win over it"},
	{name: "log-level", takes: takesValue, value: "LEVEL", help: "debug, info, warn or error", words: logLevels[:4]},
	{name: "help", short: "h", takes: takesNothing, help: "show help of the command"},
}

// The flags that go together.
var (
	loginFlags  = []string{"user", "password", "password-file", "socket"}
	viewFlags   = append([]string{"output"}, loginFlags...)
	changeFlags = append([]string{"accept-risk"}, loginFlags...)
	addFlags    = append([]string{"for", "until", "reason", "comment"}, changeFlags...)
	serveFlags  = []string{"interface", "mode", "state-dir", "socket", "pin-dir", "config", "log-level", "metrics"}
	rescueFlags = []string{"pin-dir", "socket"}
	watchFlags  = append([]string{"interface", "from", "to", "protocol", "port", "source", "drop", "count", "write"}, viewFlags...)
	importFlags = append([]string{"format", "dry-run", "replace", "skip-invalid", "output"}, addFlags...)
)

// findFlag returns the flag of that long or short name, or nil.
func findFlag(name string) *flagDef {
	for i := range flags {
		if flags[i].name == name || flags[i].short != "" && flags[i].short == name {
			return &flags[i]
		}
	}
	return nil
}

// command is one row of the table.
type command struct {
	name  string
	group string
	args  []arg
	kind  bool // takes KIND and its values instead of args
	flags []string
	short string   // one line
	long  []string // paragraphs
	run   func(*call) error
}

// allows reports whether the command takes the flag.
func (c *command) allows(flag string) bool {
	for _, f := range c.flags {
		if f == flag {
			return true
		}
	}
	return flag == "help"
}

// synopsis is the command with its arguments: "view_blacklist [FILTER]".
func (c *command) synopsis() string {
	s := c.name
	if c.kind {
		return s + " KIND [NAME] VALUE"
	}
	for _, a := range c.args {
		n := a.name
		if shown := shown(a.words); len(shown) > 0 && len(shown) <= 3 {
			n = strings.Join(shown, "|")
		}
		if a.repeat {
			n += "..."
		}
		if a.optional {
			n = "[" + n + "]"
		}
		s += " " + n
	}
	return s
}

// wordList joins the words that are offered: "on or off".
func wordList(words []word) string {
	texts := shown(words)
	if len(texts) == 0 {
		return ""
	}
	last := len(texts) - 1
	return strings.TrimPrefix(strings.Join(texts[:last], ", ")+" or "+texts[last], " or ")
}

// shown are the words that help and completion offer.
func shown(words []word) []string {
	var texts []string
	for _, w := range words {
		if !w.alias {
			texts = append(texts, w.text)
		}
	}
	return texts
}

// findCommand returns the command of that name, or nil.
func findCommand(table []*command, name string) *command {
	for _, c := range table {
		if c.name == name {
			return c
		}
	}
	return nil
}

// The groups, in the order in which help shows them.
const (
	groupLists    = "Lists"
	groupAPIs     = "APIs"
	groupSwitches = "Switches"
	groupNode     = "Node"
	groupSideband = "Sideband"
	groupDaemon   = "Daemon"
	groupShell    = "Shell"
)

var groups = []string{groupLists, groupAPIs, groupSwitches, groupSideband, groupNode, groupDaemon, groupShell}

// filters are the arguments of view_blacklist.
var filters = []word{
	{text: "all", help: "every section (also without FILTER)"},
	{text: "manual", help: "added by command"},
	{text: "abs_detected", help: "found by ABS"},
	{text: "abs_generated", help: "the same", alias: true},
	{text: "decoy", help: "touched a decoy API"},
	{text: "invalid_protocol", help: "protocol violations"},
	{text: "invalid_method", help: "method violations"},
	{text: "invalid_content_type", help: "content-type violations"},
	{text: "missing_token", help: "requests without a mandatory token"},
}

// dropReasons are those of status that packets are dropped for.
var dropReasons = []word{
	{text: "drop_blacklisted", help: "an entry of the blacklist covers the source"},
	{text: "drop_short", help: "the packet ends inside its headers"},
	{text: "drop_vlan_depth", help: "too many VLAN tags"},
	{text: "drop_version", help: "the IP version contradicts the ethertype"},
}

// logLevels are the arguments of log_level.
var logLevels = []word{
	{text: "debug"}, {text: "info"}, {text: "warn"}, {text: "error"},
	{text: "fatal", help: "kept as error", alias: true},
}

// onOff are the arguments of bypass.
var onOff = []word{{text: "on", help: "every packet passes"}, {text: "off", help: "the lists are enforced again"}}

// shells are the arguments of completion.
var shells = []word{{text: "bash"}, {text: "zsh"}, {text: "fish"}}

// commands builds the table. The list commands and the switches differ only in their nouns, so they are made.
func commands() []*command {
	table := append(listCommands(), transferCommands()...)
	table = append(table, apiCommands()...)
	for _, s := range switches {
		table = append(table, s.command(true), s.command(false))
	}
	table = append(table, nodeCommands()...)
	table = append(table, daemonCommands()...)
	table = append(table, sidebandCommands()...)
	return append(table, shellCommands()...)
}

func listCommands() []*command {
	var table []*command
	for _, l := range []listNoun{whitelist, blacklist} {
		var filter []arg
		viewLong := []string{"An empty list prints: No Whitelist"}
		if l == blacklist {
			filter = []arg{{name: "FILTER", optional: true, words: filters, help: "which section"}}
			viewLong = []string{"Sections with nothing in them are left out; nothing to show at all prints: No Blacklist"}
		}
		clearLong := []string{
			"Asks on standard output and reads one line from standard input: y or yes clears; anything else, or the end of " +
				"input, prints Action canceled and exits 0. At a terminal the answer's own Enter ends the prompt's line; " +
				"from a pipe the answer's text follows the prompt on the same line.",
		}
		if l == blacklist {
			clearLong = append(clearLong, "Where real-time detection (enable_ase_detected_attack) is enabled it will fill the list again; "+
				"a note on standard error says so.")
		}
		table = append(table,
			&command{name: "add_" + l.word(), group: groupLists, kind: true, flags: addFlags, run: l.add,
				short: fmt.Sprintf("Add an identifier to the %s", l.word()),
				long: []string{
					"Flags go before KIND or after the values. What stands in a value's place is the value, whatever it begins with.",
					"Adding what is there already exits 0 and prints: ... already in " + l.word() + ". Where it was there with another " +
						"end, the new end counts (none given: it never ends), and a reason or comment that is given replaces the old one: " +
						"... updated in " + l.word() + ".",
				}},
			&command{name: "view_" + l.word(), group: groupLists, args: filter, flags: viewFlags, run: l.view,
				short: fmt.Sprintf("Show the %s", l.word()), long: viewLong},
			&command{name: "delete_" + l.word(), group: groupLists, kind: true, flags: changeFlags, run: l.delete,
				short: fmt.Sprintf("Delete an identifier from the %s", l.word()),
				long:  deleteLong(l)},
			&command{name: "clear_" + l.word(), group: groupLists, flags: changeFlags, run: l.clear,
				short: fmt.Sprintf("Delete every entry of the %s", l.word()), long: clearLong},
		)
	}
	return table
}

// listFormats are the formats of import and export.
var listFormats = []word{
	{text: "plain", help: "an address, CIDR or range a line; # and ; begin comments"},
	{text: "csv", help: "with a header, of the columns kind, name, value, reason, comment, expires, list, source, created, by"},
	{text: "json", help: "one object a line or an array, each as -o json prints an entry"},
	{text: "ipset", help: "what ipset save prints"},
	{text: "nft", help: "elements of nft sets"},
}

// bothLists are the lists that import and export take.
var bothLists = []word{{text: "whitelist"}, {text: "blacklist"}, {text: "all", help: "both; each entry says of which list it is"}}

func transferCommands() []*command {
	return []*command{
		{name: "import", group: groupLists, flags: importFlags, run: runImport,
			args:  []arg{{name: "LIST", words: bothLists, help: "which list"}, {name: "FILE", help: "a file, or - for standard input", file: true}},
			short: "Add the entries of a file to a list, all or none",
			long: []string{
				"Reads " + formatHelp() + ", plain or in gzip or zstd, and finds out which by itself. A range becomes the fewest CIDRs that cover it.",
				"All of it is one change: it is in force, and safe from a crash, when the command returns, or nothing is changed; the first invalid line, " +
					"an entry that could lock an admin out and a list too long for the kernel stop it. Entries whose end has come are left out.",
				"What is there already is treated as add does: a new end counts, a reason or comment that is given replaces the old one. " +
					"--for and --until end every entry, whatever the file says; --reason and --comment are for entries that have none. " +
					"Who added an entry and when, and a source other than manual, are taken over from the file if root imports.",
				"With --replace what the list holds of source manual and the file does not goes, in the same change: no address that is in both " +
					"is let through or dropped in between. What is in both keeps when it was added and by whom, and reason and comment if none are given; " +
					"its end is that of the import. What detectors added stays. A file without entries replaces nothing.",
			}},
		{name: "export", group: groupLists, flags: append([]string{"format"}, loginFlags...), run: runExport,
			args:  []arg{{name: "LIST", optional: true, words: bothLists, help: "which list (all without it)"}},
			short: "Print the entries of a list for import or other programs",
			long: []string{"Without --format: json, an object a line, which loses nothing: portcullis export | portcullis import all - . csv keeps everything too; " +
				"plain, ipset and nft take addresses only, of one list."}},
	}
}

func formatHelp() string {
	var all []string
	for _, f := range listFormats {
		all = append(all, f.text+" ("+f.help+")")
	}
	return strings.Join(all, ", ")
}

func deleteLong(l listNoun) []string {
	long := []string{"Deleting what is not there is an error (exit code 7)."}
	if l == blacklist {
		long = append(long, "The identifier is deleted from every section it is in.")
	}
	return long
}

func nodeCommands() []*command {
	return []*command{
		{name: "status", group: groupNode, flags: viewFlags, run: runStatus,
			short: "Show the state of the node; needs no login",
			long: []string{"Rows of name and value, split at the first colon. A degraded state is said on standard error, " +
				"and so is what should be mended, one warning: line each; the exit code stays 0 as long as a daemon answers.",
				"mode is sideband where gateways ask and inline otherwise; http/ws and https/wss are the ports where clients or gateways come, disabled where only packets are judged. " +
					"ssl in the abs row: ABS is never called without TLS."}},
		{name: "why", group: groupNode, flags: append(append([]string{"http", "from"}, requestFlags...), viewFlags...), run: runWhy,
			args:  []arg{{name: "ADDRESS", repeat: true, help: "an IP address; -: those on standard input, one a line; with --http: a URL, or a file with the request, -: on standard input"}},
			short: "Say what happens to packets of an address, or to an HTTP request, and why",
			long: []string{"The verdict with its reason as status counts it; every entry of both lists that covers the address, with its source, age and end; " +
				"what the kernel's maps and the index over them hold, and whether that is what the lists say; whether the address is protected; and which layer acts.",
				"With --http it asks how a request would be judged: every identifier that is found in it and where, the entries that name them, which one decides, " +
					"and the answer that the client gets. The request is given as curl takes it, or as a file with its head as HTTP/1.1 sends it. Nothing is counted, no detector is asked.",
				"The exit code is 0 if packets of every address pass, or the request does; 10 if those of one are dropped, or the request is blocked or refused."}},
		{name: "top", group: groupNode, flags: append([]string{"interval", "count"}, viewFlags...), run: runTop,
			short: "Show packets and bits a second by verdict, interface, reason and family, and by entry",
			long: []string{"At a terminal the tables are drawn anew until Ctrl-C; elsewhere they are printed once. Reasons are those of status: drop_... and pass_...; " +
				"those that no packet has taken since the interface was first attached are left out.",
				"What is dropped is also shown by source of the entry (manual, abs_detected, ...), and by entry, the 20 that drop the most. (sampled): estimated " +
					"from samples, as watch shows them; (exact): counted, with accounting = \"exact\" in the configuration. This part needs a login, for it shows " +
					"addresses; the others do not."}},
		{name: "watch", group: groupNode, flags: watchFlags, run: runWatch,
			short: "Show single packets that are dropped, as it happens",
			long: []string{"One line each: time, interface, protocol, source and destination with ports, the blacklist entry the packet is dropped for and the " +
				"entry's source; for a packet that is dropped for another reason, the reason stands in the entry's place. It goes on until Ctrl-C.",
				"Of many packets only some are shown: a thousand a second for each interface, reason and CPU, after a burst of 64. N packets at the end of a " +
					"line: so many were dropped there since the line before, this one included. Nothing is recorded while nobody watches. Several may watch at " +
					"once; who is too slow is told how many lines are missing.",
				"With -w: the first 256 bytes of each packet, for Wireshark; its comment says why the packet was dropped. With -o json: an object a line."}},
		{name: "abs_info", group: groupNode, flags: viewFlags, run: runABSInfo,
			short: "Show what is exchanged with ABS",
			long:  []string{"Nothing yet: this version keeps the switches, and neither uploads logs nor fetches the attack list."}},
		{name: "cluster_info", group: groupNode, flags: viewFlags, run: runClusterInfo,
			short: "Show the nodes of the cluster",
			long:  []string{"This one alone: there is no cluster yet, and lists, APIs and tokens are each node's own."}},
		{name: "log_level", group: groupNode, flags: viewFlags, run: runLogLevel,
			args:  []arg{{name: "LEVEL", optional: true, words: logLevels, help: "the new level"}},
			short: "Show or change the daemon's log level",
			long:  []string{"The original's level fatal is accepted and kept as error."}},
		{name: "history", group: groupNode, flags: append([]string{"limit"}, viewFlags...), run: runHistory,
			short: "Show who changed the lists, the newest change first",
			long:  []string{"In place of a cookie, token or API key stands the mark that the audit log has for it."}},
		{name: "verify_audit", group: groupNode, flags: viewFlags, run: runVerifyAudit,
			short: "Check the hash chain of the audit log"},
		{name: "update_password", group: groupNode, flags: loginFlags, run: runUpdatePassword,
			short: "Change the password",
			long: []string{"Reads three lines from standard input: the old password, the new one, the new one again. " +
				"At a terminal it asks for them without echo. Without -p the old password is the login; root without -p may leave its line empty."}},
		{name: "get_auth_method", group: groupNode, flags: viewFlags, run: runAuthMethod,
			short: "Show how users are authenticated"},
		{name: "version", group: groupNode, flags: viewFlags, run: runVersion,
			short: "Show the version; needs no daemon and no login"},
		{name: "help", group: groupNode, flags: loginFlags, run: runHelp,
			args:  []arg{{name: "COMMAND", optional: true, help: "a command"}},
			short: "Show help; needs no daemon and no login"},
	}
}

func daemonCommands() []*command {
	return []*command{
		{name: "serve", group: groupDaemon, flags: serveFlags, run: runServe,
			short: "Run the daemon in the foreground",
			long: []string{"Ends on SIGTERM and SIGINT; SIGUSR2 restarts it in its process. Ending is not detaching: the kernel goes on enforcing the lists. " +
				"Flags win over the environment, the environment over the file, the file over the defaults."}},
		{name: "detach", group: groupDaemon, flags: rescueFlags, run: runDetach,
			args:  []arg{{name: "IF", optional: true, repeat: true, help: "a network interface; none: all"}},
			short: "Take the program off interfaces: ends enforcement; works without a daemon, needs root"},
		{name: "bypass", group: groupDaemon, flags: rescueFlags, run: runBypass,
			args:  []arg{{name: "STATE", words: onOff, help: "on or off"}},
			short: "Let every packet pass, or no longer; works without a daemon, needs root"},
	}
}

func shellCommands() []*command {
	return []*command{
		{name: "completion", group: groupShell, flags: loginFlags, run: runCompletion,
			args:  []arg{{name: "SHELL", words: shells, help: "the shell"}},
			short: "Print a completion script for bash, zsh or fish"},
		{name: "man", group: groupShell, flags: loginFlags, run: runMan, short: "Print the manual page portcullis(1)"},
	}
}
