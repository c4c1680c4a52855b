package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// version is set by the linker (-X main.version=...); empty means: what the build says of itself.
var version string

func main() { os.Exit(mainExit()) }

// mainExit is main without the exit, for tests that run the program as a process of its own.
func mainExit() int {
	argv := cloneStrings(os.Args[1:])
	inv, err := readArgv(commands(), argv)
	wipe(os.Args[1:], inv.secrets)
	s := &streams{in: os.Stdin, out: bufio.NewWriterSize(os.Stdout, 64<<10), err: os.Stderr}
	return finish(s, dispatch(context.Background(), s, inv, err))
}

// streams are the three of a process.
type streams struct {
	in  io.Reader
	out *bufio.Writer
	err io.Writer
}

// call is one running command.
type call struct {
	*streams
	ctx context.Context
	cli *cli.Context
	cmd *command
}

// arg returns the i-th argument, "" if there is none.
func (c *call) arg(i int) string { return c.cli.Args().Get(i) }

// has reports whether a flag without value is given.
func (c *call) has(flag string) bool { return c.cli.Bool(bareName(flag)) }

// list is a flag that may be given more than once, each time with several values between commas.
func (c *call) list(flag string) (all []string) {
	for _, v := range c.cli.StringSlice(flag) {
		all = append(all, strings.Split(v, ",")...)
	}
	return all
}

// json reports whether the answer is wanted as JSON.
func (c *call) json() bool { return c.cli.String("output") == "json" }

// dispatch hands a command line that was read to urfave/cli in one canonical form: the command, its flags as
// --name=value, "--", its arguments. So urfave's own reading, which stops at the first argument, never matters.
func dispatch(ctx context.Context, s *streams, inv invocation, err error) error {
	if err != nil {
		return err
	}
	return newApp(s, inv.cmd).RunContext(ctx, canonical(inv))
}

// canonical is the command line as urfave gets it.
func canonical(inv invocation) []string {
	argv := []string{"portcullis", inv.cmd.name}
	for _, g := range inv.flags {
		if g.bare {
			argv = append(argv, "--"+bareName(g.name))
			continue
		}
		argv = append(argv, "--"+g.name+"="+g.value)
	}
	return append(append(argv, "--"), inv.args...)
}

// bareName is the name urfave knows a flag by when its optional value is left out.
func bareName(flag string) string { return "ask-" + flag }

// newApp makes the urfave application of one command, the one that was typed.
func newApp(s *streams, c *command) *cli.App {
	cmd := &cli.Command{
		Name: c.name, HideHelp: true,
		Action: func(cc *cli.Context) error { return c.run(&call{streams: s, ctx: cc.Context, cli: cc, cmd: c}) },
	}
	for _, name := range c.flags {
		cmd.Flags = append(cmd.Flags, urfaveFlags(findFlag(name))...)
	}
	return &cli.App{
		DisableSliceFlagSeparator: true, // a header's value may have commas in it: see call.list
		Name:                      "portcullis", HideHelp: true, HideVersion: true, Commands: []*cli.Command{cmd},
		Writer: io.Discard, ErrWriter: io.Discard, // we say what there is to say
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return &usageError{message: err.Error()} },
	}
}

func urfaveFlags(f *flagDef) []cli.Flag {
	var env []string
	if f.env != "" {
		env = []string{f.env}
	}
	if f.many {
		return []cli.Flag{&cli.StringSliceFlag{Name: f.name, EnvVars: env}}
	}
	if f.takes == takesNothing {
		return []cli.Flag{&cli.BoolFlag{Name: bareName(f.name)}}
	}
	flags := []cli.Flag{&cli.StringFlag{Name: f.name, EnvVars: env}}
	if f.takes == takesOptional {
		flags = append(flags, &cli.BoolFlag{Name: bareName(f.name)})
	}
	return flags
}

// finish flushes the output, reports the error and returns the exit code.
func finish(s *streams, err error) int {
	if flush := s.out.Flush(); flush != nil && !errors.Is(err, errOutput) {
		err = errors.Join(err, &outputError{flush})
	}
	return report(s.err, err)
}

// buildVersion is the version this binary calls itself.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
