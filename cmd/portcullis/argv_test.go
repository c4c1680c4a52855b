package main

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read reads a command line whose words are separated by blanks.
func read(t *testing.T, line string) (invocation, error) {
	t.Helper()
	return readArgv(commands(), strings.Fields(line))
}

func TestFlagsStandAnywhereButInAValuesPlace(t *testing.T) {
	for line, want := range map[string]string{
		"-u admin -p admin add_blacklist ip 1.1.1.1":               "add_blacklist[ip 1.1.1.1] user=admin password=admin",
		"add_blacklist ip 1.1.1.1 -u admin -p admin":               "add_blacklist[ip 1.1.1.1] user=admin password=admin",
		"add_blacklist -u admin -p admin ip 1.1.1.1":               "add_blacklist[ip 1.1.1.1] user=admin password=admin",
		"--for 1h add_blacklist ip 1.1.1.1":                        "add_blacklist[ip 1.1.1.1] for=1h",
		"add_blacklist --for=1h ip 1.1.1.1 --reason x":             "add_blacklist[ip 1.1.1.1] for=1h reason=x",
		"add_blacklist token --for":                                "add_blacklist[token --for]",
		"add_blacklist token --for --for 2h":                       "add_blacklist[token --for] for=2h",
		"add_blacklist cookie -x -y":                               "add_blacklist[cookie -x -y]",
		"add_blacklist cookie -- -- --for 1h":                      "add_blacklist[cookie -- --] for=1h",
		"add_blacklist api_key -u -p -u admin -p admin":            "add_blacklist[api_key -u -p] user=admin password=admin",
		"add_blacklist token help":                                 "add_blacklist[token help]",
		"add_blacklist token --help":                               "add_blacklist[token --help]",
		"add_blacklist -- token -h":                                "add_blacklist[token -h]",
		"-- status":                                                "status[]",
		"status":                                                   "status[]",
		"":                                                         "help[]",
		"--help":                                                   "help[]",
		"view_blacklist -h":                                        "help[view_blacklist]",
		"view_blacklist decoy -o json":                             "view_blacklist[decoy] output=json",
		"-o json view_blacklist":                                   "view_blacklist[] output=json",
		"serve --interface a,b --interface c":                      "serve[] interface=a,b interface=c",
		"detach a b c --pin-dir /x":                                "detach[a b c] pin-dir=/x",
		"add_blacklist ip 1.1.1.1 --accept-risk=a --accept-risk b": "add_blacklist[ip 1.1.1.1] accept-risk=a accept-risk=b",
		"--password= status":                                       "status[] password=",
		"-p=x=y status":                                            "status[] password=x=y",
		"-u admin -p status":                                       "status[] user=admin password",
		"-u admin -p status status":                                "status[] user=admin password=status",
		"-u admin -p help add_blacklist ip 1.1.1.1":                "add_blacklist[ip 1.1.1.1] user=admin password=help",
		"-u admin -p add_blacklist ip 1.1.1.1":                     "add_blacklist[ip 1.1.1.1] user=admin password",
		"-p add_blacklist token status":                            "add_blacklist[token status] password",
		"-p add_blacklist -u admin status":                         "status[] password=add_blacklist user=admin",
		"-p add_blacklist --reason status token x":                 "add_blacklist[token x] password reason=status",
		"-p -u admin status":                                       "status[] password user=admin",
		"-p --socket=/x status":                                    "status[] password socket=/x",
		"-p -secret status":                                        "status[] password=-secret",
		"add_blacklist ip 1.1.1.1 -u admin -p":                     "add_blacklist[ip 1.1.1.1] user=admin password",
		"add_blacklist ip 1.1.1.1 -u admin -p status":              "add_blacklist[ip 1.1.1.1] user=admin password=status",
		"view_blacklist -u admin -p":                               "view_blacklist[] user=admin password",
	} {
		inv, err := read(t, line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		got := inv.cmd.name + "[" + strings.Join(inv.args, " ") + "]"
		for _, g := range inv.flags {
			got += " " + g.name
			if !g.bare {
				got += "=" + g.value
			}
		}
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", line, got, want)
		}
	}
}

func TestNothingIsSilentlyIgnored(t *testing.T) {
	for line, want := range map[string]string{
		"block 1.2.3.4 --ttl 1h":                     `unknown command "block"`,
		"add_blacklst ip 1.1.1.1":                    `unknown command "add_blacklst" (did you mean add_blacklist?`,
		"nope":                                       `unknown command "nope" (portcullis help lists the commands)`,
		"–u admin status":                            `unknown command "–u" (that is a dash, not a hyphen: type -u)`,
		"-u admin":                                   `no command given`,
		"-u":                                         `--user needs a value: --user USER`,
		"add_blacklist":                              `add_blacklist needs a kind: ip, cookie, token, api_key or username`,
		"add_blacklist 1.2.3.4":                      `unknown kind "1.2.3.4": expected ip, cookie`,
		"add_blacklist ip":                           `add_blacklist ip needs ADDRESS (usage: add_blacklist ip ADDRESS)`,
		"add_blacklist cookie a":                     `add_blacklist cookie needs VALUE (usage: add_blacklist cookie NAME VALUE)`,
		"add_blacklist api_key":                      `add_blacklist api_key needs NAME and VALUE`,
		"add_blacklist ip 1.1.1.1 2.2.2.2":           `surplus argument "2.2.2.2" after ip ADDRESS`,
		"add_blacklist username your name":           `surplus argument "name" after username VALUE (put a username with spaces in quotes: username "your name")`,
		"add_blacklist ip 1.1.1.1 --ttl 1h":          `unknown flag "--ttl"`,
		"add_blacklist ip 1.1.1.1 --reson x":         `unknown flag "--reson" (did you mean --reason?`,
		"add_blacklist ip 1.1.1.1 --for":             `--for needs a value: --for DURATION`,
		"add_blacklist ip 1.1.1.1 --for 1h --for 2h": `--for is given twice`,
		"add_blacklist ip 1.1.1.1 -user x":           `unknown flag "-user"`,
		"add_blacklist ip 1.1.1.1 --u x":             `unknown flag "--u"`,
		"add_blacklist ip 1.1.1.1 --help=x":          `--help takes no value, got "x"`,
		"add_blacklist token -u admin -p admin":      `surplus argument "admin" after token VALUE`,
		"delete_blacklist ip 1.1.1.1 --for 1h":       `delete_blacklist takes no --for`,
		"status extra":                               `surplus argument "extra"`,
		"status --for 1h":                            `status takes no --for`,
		"view_blacklist bad":                         `unknown filter "bad": expected all, manual, abs_detected, decoy`,
		"view_blacklist all decoy":                   `surplus argument "decoy"`,
		"bypass":                                     `bypass needs STATE: on or off (usage: bypass on|off)`,
		"bypass maybe":                               `unknown state "maybe": expected on or off`,
		"log_level loud":                             `unknown level "loud": expected debug, info, warn or error`,
		"serve eth0":                                 `surplus argument "eth0"`,
		"add_blacklist ip 1.1.1.1 --reason=":         `--reason is empty`,
		"view_blacklist -o xml":                      `unknown --output "xml": expected text or json`,
		"status --socket=":                           `--socket is empty`,
		"add_blacklist ip 1.1.1.1 --for=":            `--for is empty`,
		"serve -u admin":                             `serve takes no --user`,
	} {
		_, err := read(t, line)
		var usage *usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: got %v, want a usage error", line, err)
			continue
		}
		if got := usage.message + " (" + usage.hint + ")"; !strings.Contains(got, strings.TrimSuffix(want, ")")) {
			t.Errorf("%q:\n got %s\nwant %s", line, got, want)
		}
	}
}

func TestSecretsAreFoundEvenInABadCommandLine(t *testing.T) {
	for line, want := range map[string][]secret{
		"-u admin -p hidden status":        {{3, 0}},
		"--password=hidden nonsense":       {{0, len("--password=")}},
		"status -p hidden --unknown":       {{2, 0}},
		"add_blacklist token -p":           nil,
		"-p one -p two status":             {{1, 0}, {3, 0}},
		"-p=hidden status":                 {{0, len("-p=")}},
		"add_blacklist ip 1.1.1.1 -p x -p": {{4, 0}},
	} {
		inv, _ := read(t, line)
		if diff := cmp.Diff(want, inv.secrets, cmp.AllowUnexported(secret{})); diff != "" {
			t.Errorf("%q: secrets (-want +got):\n%s", line, diff)
		}
	}
}

// FuzzReadArgv checks that no element of a command line is dropped: each becomes a flag, a flag's value, the command
// or an argument, or the whole is refused; and that urfave/cli receives exactly that.
func FuzzReadArgv(f *testing.F) {
	for _, seed := range []string{
		"-u\nadmin\n-p\nadmin\nadd_blacklist\nip\n1.1.1.1", "add_blacklist\ntoken\n--for", "add_blacklist\n--for=1h\ncookie\n-x\n--\n--",
		"-p\nstatus", "-p\nstatus\nstatus", "view_blacklist\nall\n-o=json", "help\nserve", "--\n--", "-\n", "--=\n", "-p", "-p\n", "-p\n--",
		"serve\n--interface\na,b\n--interface=c", "detach\n\n-", "add_whitelist\nusername\nyour name\n--reason=", "-h", "status\n-h",
		"add_blacklist\nip\n1\n--accept-risk\na,b\n--accept-risk= c", "log_level\n-p\ndebug",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		argv := strings.Split(text, "\n")
		inv, err := readArgv(commands(), argv)
		if err != nil {
			var usage *usageError
			if !errors.As(err, &usage) || usage.message == "" || strings.ContainsAny(oneLine(usage.message+usage.hint), "\n\x1b") {
				t.Fatalf("%q: error %#v is no usage error", argv, err)
			}
			return
		}
		checkRoles(t, argv, inv)
		checkHandedOver(t, argv, inv)
	})
}

func checkRoles(t *testing.T, argv []string, inv invocation) {
	t.Helper()
	var args []string
	flagged, command := 0, 0
	for i, r := range inv.roles {
		switch r {
		case roleFlag:
			flagged++
		case roleArg:
			args = append(args, argv[i])
		case roleCommand:
			command++
		case roleFlagValue:
			if inv.roles[i-1] != roleFlag {
				t.Fatalf("%q: element %d is a value without a flag", argv, i)
			}
		case roleTerminator:
			if argv[i] != "--" {
				t.Fatalf("%q: element %d is no terminator", argv, i)
			}
		default:
			t.Fatalf("%q: element %d was dropped", argv, i)
		}
	}
	if inv.cmd.name == "help" && len(inv.flags) == 0 {
		return // --help was asked for: it is all that counts
	}
	if command != 1 || flagged != len(inv.flags) || !slices.Equal(args, inv.args) {
		t.Fatalf("%q: read as %d commands, %d flags %v, arguments %q", argv, command, flagged, inv.flags, inv.args)
	}
}

// checkHandedOver runs urfave on the canonical form and compares what arrives.
func checkHandedOver(t *testing.T, argv []string, inv invocation) {
	t.Helper()
	probe := *inv.cmd
	ran := false
	probe.run = func(c *call) error {
		ran = true
		if got := c.cli.Args().Slice(); !slices.Equal(got, inv.args) {
			t.Fatalf("%q: arguments arrive as %q, want %q", argv, got, inv.args)
		}
		for _, g := range inv.flags {
			switch {
			case g.bare && !c.cli.Bool(bareName(g.name)):
				t.Fatalf("%q: bare --%s does not arrive", argv, g.name)
			case !g.bare && !findFlag(g.name).many && c.cli.String(g.name) != g.value:
				t.Fatalf("%q: --%s arrives as %q, want %q", argv, g.name, c.cli.String(g.name), g.value)
			case !c.cli.IsSet(g.name) && !g.bare:
				t.Fatalf("%q: --%s does not arrive", argv, g.name)
			}
		}
		return nil
	}
	s := &streams{in: strings.NewReader(""), out: bufio.NewWriter(io.Discard), err: io.Discard}
	if err := newApp(s, &probe).RunContext(t.Context(), canonical(inv)); err != nil || !ran {
		t.Fatalf("%q: run: %v, ran %v", argv, err, ran)
	}
}
