package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// The completion scripts hold fixed word lists made from the table. They never evaluate or expand what the user
// typed, and never call the daemon.

// programs are the names the scripts complete for.
var programs = []string{"portcullis", "cli.sh"}

func runCompletion(c *call) error {
	table := commands()
	switch c.arg(0) {
	case "bash":
		writeBash(c.out, table)
	case "zsh":
		writeZsh(c.out, table)
	default:
		writeFish(c.out, table)
	}
	return nil
}

// shellRules is what all three scripts say, as words.
type shellRules struct {
	commands   []string
	valueFlags []string            // flags whose next word is a value
	flagWords  map[string][]string // words for a flag's value
	fileFlags  []string            // flags whose value is a file
	first      map[string][]string // words for a command's first argument
	flagsOf    map[string][]string // flags of a command
	arity      map[string]int      // values a kind takes
	byKind     []string            // commands that take a kind
	files      [2][]string         // commands whose first, whose second argument is a file
}

func rulesOf(table []*command) shellRules {
	r := shellRules{flagWords: map[string][]string{}, first: map[string][]string{}, flagsOf: map[string][]string{}, arity: map[string]int{}}
	for _, f := range flags {
		names := []string{"--" + f.name}
		if f.short != "" {
			names = append(names, "-"+f.short)
		}
		if f.takes == takesValue {
			r.valueFlags = append(r.valueFlags, names...)
		}
		for _, n := range names {
			if f.words != nil {
				r.flagWords[n] = shown(f.words)
			}
			if f.file {
				r.fileFlags = append(r.fileFlags, n)
			}
		}
	}
	for _, k := range kinds {
		r.arity[k.name] = len(k.values)
	}
	for _, c := range table {
		r.commands = append(r.commands, c.name)
		for _, name := range append(slices.Clone(c.flags), "help") {
			r.flagsOf[c.name] = append(r.flagsOf[c.name], "--"+name)
		}
		switch {
		case c.kind:
			r.byKind = append(r.byKind, c.name)
			for _, k := range kinds {
				r.first[c.name] = append(r.first[c.name], k.name)
			}
		case c.name == "help":
			r.first[c.name] = commandNames(table)
		case len(c.args) > 0 && c.args[0].words != nil:
			r.first[c.name] = shown(c.args[0].words)
		}
		for i := range min(len(c.args), len(r.files)) {
			if c.args[i].file {
				r.files[i] = append(r.files[i], c.name)
			}
		}
	}
	return r
}

// writeScan writes the part that bash and zsh share word for word: it reads the words before the present one (in the
// array words) and leaves the command, the number of its arguments and the values its kind still takes.
func writeScan(w io.Writer, r shellRules) {
	fmt.Fprint(w, "    local cmd= args=0 left=0 ask=0 skip=0 word\n")
	fmt.Fprint(w, "    for word in \"${words[@]}\"; do\n")
	fmt.Fprint(w, "        if (( left > 0 )); then left=$(( left - 1 )); args=$(( args + 1 )); continue; fi\n")
	fmt.Fprint(w, "        if (( skip )); then skip=0; continue; fi\n")
	fmt.Fprint(w, "        case $word in\n")
	fmt.Fprintf(w, "            %s) skip=1; ask=0; continue ;;\n", strings.Join(r.valueFlags, "|"))
	fmt.Fprint(w, "            -p|--password) ask=1; continue ;;\n")
	fmt.Fprint(w, "            -?*) ask=0; continue ;;\n")
	fmt.Fprint(w, "        esac\n")
	fmt.Fprint(w, "        if [[ -z $cmd ]]; then\n")
	fmt.Fprintf(w, "            case $word in %s) cmd=$word ;; esac\n", strings.Join(r.commands, "|"))
	fmt.Fprint(w, "        elif (( ! ask )); then\n")
	fmt.Fprint(w, "            args=$(( args + 1 ))\n")
	fmt.Fprintf(w, "            case $args:$cmd in %s)\n", "1:"+strings.Join(r.byKind, "|1:"))
	fmt.Fprint(w, "                case $word in\n")
	for _, k := range kinds {
		fmt.Fprintf(w, "                    %s) left=%d ;;\n", k.name, r.arity[k.name])
	}
	fmt.Fprint(w, "                esac ;;\n            esac\n        fi\n        ask=0\n    done\n")
}

// writeOffers writes the choice of words after the scan; reply is the line that offers $offer, files the one for files.
func writeOffers(w io.Writer, r shellRules, files string) {
	fmt.Fprint(w, "    local offer=\n    if (( left > 0 )); then return 0; fi\n")
	fmt.Fprint(w, "    if (( skip )); then\n        case $prev in\n")
	for _, f := range r.valueFlags {
		if words := r.flagWords[f]; words != nil {
			fmt.Fprintf(w, "            %s) offer='%s' ;;\n", f, strings.Join(words, " "))
		}
	}
	fmt.Fprintf(w, "            %s) %s; return 0 ;;\n", strings.Join(r.fileFlags, "|"), files)
	fmt.Fprint(w, "        esac\n    elif [[ $cur == -* ]]; then\n        case $cmd in\n")
	for _, c := range r.commands {
		fmt.Fprintf(w, "            %s) offer='%s' ;;\n", c, strings.Join(r.flagsOf[c], " "))
	}
	var global []string
	for _, f := range globalFlags() {
		global = append(global, "--"+f.name)
	}
	fmt.Fprintf(w, "            *) offer='%s' ;;\n        esac\n", strings.Join(global, " "))
	fmt.Fprintf(w, "    elif [[ -z $cmd ]]; then\n        offer='%s'\n", strings.Join(r.commands, " "))
	for i, takers := range r.files {
		for _, c := range takers {
			fmt.Fprintf(w, "    elif [[ $args:$cmd == %d:%s ]]; then\n        %s; return 0\n", i, c, files)
		}
	}
	fmt.Fprint(w, "    elif (( args == 0 )); then\n        case $cmd in\n")
	for _, c := range r.commands {
		if words := r.first[c]; words != nil {
			fmt.Fprintf(w, "            %s) offer='%s' ;;\n", c, strings.Join(words, " "))
		}
	}
	fmt.Fprint(w, "        esac\n")
	fmt.Fprint(w, "    fi\n")
}

func writeBash(w io.Writer, table []*command) {
	r := rulesOf(table)
	fmt.Fprint(w, "# bash completion for portcullis; load with: source <(portcullis completion bash)\n\n_portcullis() {\n")
	fmt.Fprint(w, "    COMPREPLY=()\n")
	fmt.Fprint(w, "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n")
	fmt.Fprint(w, "    local -a words=(\"${COMP_WORDS[@]:1:COMP_CWORD-1}\")\n")
	writeScan(w, r)
	writeOffers(w, r, "compopt -o default")
	fmt.Fprint(w, "    # Only our own words are split; what was typed is compared, never expanded.\n")
	fmt.Fprint(w, "    for word in $offer; do\n        if [[ $word == \"$cur\"* ]]; then COMPREPLY+=(\"$word\"); fi\n    done\n}\n\n")
	fmt.Fprintf(w, "complete -F _portcullis %s\n", strings.Join(programs, " "))
}

func writeZsh(w io.Writer, table []*command) {
	r := rulesOf(table)
	fmt.Fprintf(w, "#compdef %s\n# zsh completion for portcullis; load with: source <(portcullis completion zsh)\n\n_portcullis() {\n", strings.Join(programs, " "))
	fmt.Fprint(w, "    emulate -L zsh\n    local cur=\"${words[CURRENT]}\" prev=\"${words[CURRENT-1]}\"\n")
	fmt.Fprint(w, "    local -a typed; typed=(\"${(@)words[2,CURRENT-1]}\")\n    local -a words; words=(\"${typed[@]}\")\n")
	writeScan(w, r)
	writeOffers(w, r, "_files")
	fmt.Fprint(w, "    # Only our own words are split; what was typed is compared, never expanded.\n    compadd -- ${=offer}\n}\n\n")
	fmt.Fprintf(w, "if [[ ${funcstack[1]} == _portcullis ]]; then\n    _portcullis \"$@\"\nelse\n    compdef _portcullis %s\nfi\n", strings.Join(programs, " "))
}

func writeFish(w io.Writer, table []*command) {
	r := rulesOf(table)
	all := strings.Join(r.commands, " ")
	fmt.Fprint(w, "# fish completion for portcullis; load with: portcullis completion fish | source\n\n")
	for _, p := range programs {
		fmt.Fprintf(w, "complete -c %s -f\n", p)
		for _, c := range table {
			fmt.Fprintf(w, "complete -c %s -n 'not __fish_seen_subcommand_from %s' -a %s -d '%s'\n", p, all, c.name, fishQuote(c.short))
		}
		for _, c := range table {
			if words := r.first[c.name]; words != nil {
				fmt.Fprintf(w, "complete -c %s -n '__fish_seen_subcommand_from %s; and not __fish_seen_subcommand_from %s' -a '%s'\n",
					p, c.name, strings.Join(without(words, c.name), " "), strings.Join(words, " "))
			}
		}
		for _, c := range slices.Concat(r.files[:]...) {
			fmt.Fprintf(w, "complete -c %s -n '__fish_seen_subcommand_from %s' -F\n", p, c)
		}
		for _, f := range flags {
			writeFishFlag(w, p, f, table)
		}
	}
}

// without is words less one, so that "help help" does not hide what follows.
func without(words []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == word })
}

func writeFishFlag(w io.Writer, program string, f flagDef, table []*command) {
	condition := ""
	if !containsFlag(globalFlags(), findFlag(f.name)) {
		var takers []string
		for _, c := range table {
			if c.allows(f.name) {
				takers = append(takers, c.name)
			}
		}
		condition = fmt.Sprintf(" -n '__fish_seen_subcommand_from %s'", strings.Join(takers, " "))
	}
	fmt.Fprintf(w, "complete -c %s%s -l %s", program, condition, f.name)
	if f.short != "" {
		fmt.Fprintf(w, " -s %s", f.short)
	}
	switch {
	case f.takes == takesValue && f.file:
		fmt.Fprint(w, " -r -F")
	case f.takes == takesValue && f.words != nil:
		fmt.Fprintf(w, " -x -a '%s'", strings.Join(shown(f.words), " "))
	case f.takes == takesValue:
		fmt.Fprint(w, " -x")
	}
	fmt.Fprintf(w, " -d '%s'\n", fishQuote(f.help))
}

// fishQuote makes text safe inside single quotes.
func fishQuote(s string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) }
