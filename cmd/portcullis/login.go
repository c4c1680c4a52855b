package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/portcullis/portcullis/userspace"
	"github.com/portcullis/portcullis/userspace/control"
)

// defaultUser is the account every node begins with.
const defaultUser = "admin"

// maxLine bounds one line of standard input.
const maxLine = 4 << 10

// passwordEnv gives the password where neither -p nor --password-file does.
const passwordEnv = "PORTCULLIS_PASSWORD"

// client calls the daemon as whoever the command line says. It may prompt for a password.
func (c *call) client() (*control.Client, error) {
	user, password, err := c.login()
	if err != nil {
		return nil, err
	}
	cl := c.anonymous()
	cl.User, cl.Password, cl.SessionPeer = user, password, sessionPeer(os.Getenv, os.ReadFile)
	return cl, nil
}

// anonymous calls the daemon for what needs no login.
func (c *call) anonymous() *control.Client {
	socket := c.cli.String("socket")
	if socket == "" {
		socket = userspace.DefaultConfig().Socket
	}
	return &control.Client{Socket: socket}
}

// login finds user and password: from -p, --password-file, a prompt, or the environment. Without any of these the
// peer credentials alone decide, which is enough for root.
func (c *call) login() (user, password string, err error) {
	user = c.cli.String("user")
	ask := c.cli.Bool(bareName("password"))
	file := c.cli.String("password-file")
	switch {
	case file != "" && (ask || c.cli.IsSet("password")):
		return "", "", &usageError{"--password and --password-file exclude each other", "give one of them"}
	case c.cli.IsSet("password"):
		password = c.cli.String("password")
	case file != "":
		password, err = c.passwordFile(file)
	case ask:
		password, err = c.askSecret("password: ")
	default:
		if password = os.Getenv(passwordEnv); password == "" {
			if user != "" {
				return "", "", &usageError{"no password for user " + user,
					"add -p PASSWORD, -p alone to be asked, or --password-file FILE; root on this host may leave out -u"}
			}
			return "", "", nil
		}
	}
	if user == "" {
		user = defaultUser
	}
	if err == nil && !utf8.ValidString(user+password) {
		err = &usageError{"user or password is not valid UTF-8", "set the terminal to UTF-8"}
	}
	return user, password, err
}

// passwordFile reads the first line of a file.
func (c *call) passwordFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", &usageError{"read password file: " + err.Error(), "name a file that you may read"}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		c.note(fmt.Sprintf("others may read %s: chmod 600 %s", path, path))
	}
	line, err := readLine(f)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", &usageError{fmt.Sprintf("read password file %s: %s", path, err), "put the password on the first line"}
	}
	return line, nil
}

// askSecret reads one line from standard input: at a terminal after a prompt on standard error and without echo,
// else silently.
func (c *call) askSecret(prompt string) (string, error) {
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := readLine(c.in)
		if err != nil {
			return "", &usageError{"read password from standard input: " + err.Error(), "give one line, or type it at a terminal"}
		}
		return line, nil
	}
	// Raw mode, because a Ctrl-C in the usual no-echo mode would kill us and leave the terminal without echo.
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return "", fmt.Errorf("switch off echo: %w", err)
	}
	defer term.Restore(int(f.Fd()), old)
	c.out.Flush()
	line, err := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{f, c.err}, "").ReadPassword(prompt)
	if err != nil {
		return "", &usageError{"no password given", "type it, then Enter"}
	}
	return line, nil
}

// readLine reads one line byte by byte, so that what follows stays there for the next reader of a shared input.
// A last line without its newline counts; io.EOF means there was nothing.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for {
		n, err := r.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case n == 1 && len(line) == maxLine:
			return "", fmt.Errorf("line is longer than %d bytes", maxLine)
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, io.EOF) && len(line) > 0:
			return string(line), nil
		case err != nil:
			return "", err
		}
	}
}

// sessionPeer returns the address the caller's SSH session comes from, "" if there is none. sudo and su drop
// SSH_CONNECTION from the environment, so that of the ancestors is looked at too, as far as it may be read.
func sessionPeer(getenv func(string) string, readFile func(string) ([]byte, error)) string {
	if peer := connectionPeer(getenv("SSH_CONNECTION")); peer != "" {
		return peer
	}
	for pid, depth := os.Getppid(), 0; pid > 1 && depth < 32; depth++ {
		environ, _ := readFile(fmt.Sprintf("/proc/%d/environ", pid))
		for _, v := range strings.Split(string(environ), "\x00") {
			if text, ok := strings.CutPrefix(v, "SSH_CONNECTION="); ok {
				if peer := connectionPeer(text); peer != "" {
					return peer
				}
			}
		}
		stat, err := readFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return ""
		}
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
		fields := strings.Fields(rest) // state, ppid
		if len(fields) < 2 {
			return ""
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return ""
		}
	}
	return ""
}

// connectionPeer takes the client's address from SSH_CONNECTION ("client port server port").
func connectionPeer(text string) string {
	first, _, _ := strings.Cut(text, " ")
	a, err := netip.ParseAddr(first)
	if err != nil {
		return ""
	}
	return a.WithZone("").Unmap().String()
}
