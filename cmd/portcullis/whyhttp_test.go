package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestHead: a URL and headers become the request that curl would send, with nothing repaired.
func TestHead(t *testing.T) {
	for _, test := range []struct {
		line, want string
	}{
		{"https://shop.com", "GET / HTTP/1.1\r\nHost: shop.com\r\n\r\n"},
		{"http://shop.com:8080/a%2fb//c;x?y=%zz;u#frag", "GET /a%2fb//c;x?y=%zz;u HTTP/1.1\r\nHost: shop.com:8080\r\n\r\n"},
		{"http://shop.com?y=1", "GET /?y=1 HTTP/1.1\r\nHost: shop.com\r\n\r\n"},
		{"http://shop.com//x", "GET //x HTTP/1.1\r\nHost: shop.com\r\n\r\n"},
		{"-X|PATCH|-H|Cookie: a=b, c|-H|host:other|-H|X-Empty:|http://shop.com/", "PATCH / HTTP/1.1\r\nCookie: a=b, c\r\nhost:other\r\nX-Empty:\r\n\r\n"},
	} {
		got, err := headOf(t, test.line)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %q, %v; want %q", test.line, got, err, test.want)
		}
	}
	for line, want := range map[string]string{
		"http:///x":                  "is no URL",
		"http://u:p@shop.com/":       "with a password",
		"-H|Cookie|http://shop.com/": "NAME: VALUE",
		"-H|A: b\r\nX: y|http://x/":  "NAME: VALUE",
		"-X|GET /|http://shop.com/":  "is no method",
		"http://shop.com/a b":        "is no URL",
	} {
		if got, err := headOf(t, line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %s", line, got, err, want)
		}
	}
}

// headOf reads a command line of why --http, whose words stand between bars.
func headOf(t *testing.T, line string) (raw []byte, err error) {
	t.Helper()
	argv := append([]string{"why", "--http"}, strings.Split(line, "|")...)
	table := commands()
	findCommand(table, "why").run = func(c *call) (err error) {
		raw, err = c.head(c.arg(0))
		return err
	}
	inv, err := readArgv(table, argv)
	var out bytes.Buffer
	return raw, dispatch(t.Context(), &streams{in: strings.NewReader(""), err: &out}, inv, err)
}
