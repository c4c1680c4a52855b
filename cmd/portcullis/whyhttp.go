package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// requestFlags say with a URL what a request is, as curl takes it.
var requestFlags = []string{"header", "cookie", "basic", "user-agent", "request"}

// maxHead is the most that is read of a request.
const maxHead = 512 << 10

// whyHTTP asks how one request would be judged.
func (c *call) whyHTTP() error {
	if c.cli.Args().Len() != 1 {
		return &usageError{"why --http takes one request", "why --http [-X METHOD] [-H 'NAME: VALUE']... URL, or why --http FILE"}
	}
	q, err := c.question()
	if err != nil {
		return err
	}
	if q.From = c.cli.String("from"); q.From != "" {
		if _, err := netip.ParseAddr(q.From); err != nil {
			return &usageError{"--from " + lists.Quote(q.From) + " is no IP address", "--from 203.0.113.7"}
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	w, err := cl.WhyHTTP(c.ctx, q)
	if err != nil {
		return err
	}
	if c.json() {
		err = writeJSON(c.out, w)
	} else {
		c.writeWhyHTTP(w)
	}
	if err == nil && w.Verdict != "pass" {
		return silent(exitDropped)
	}
	return err
}

// question is the request of the command line.
func (c *call) question() (control.HTTPQuestion, error) {
	what := c.arg(0)
	scheme, _, isURL := strings.Cut(what, "://")
	switch {
	case isURL && (scheme == "http" || scheme == "https"):
		raw, err := c.head(what)
		return control.HTTPQuestion{Raw: raw, Scheme: scheme}, err
	case isURL:
		return control.HTTPQuestion{}, &usageError{lists.Quote(what) + ": expected an http or https URL, or a file", "why --http https://shop.com/"}
	}
	for _, flag := range requestFlags {
		if c.cli.IsSet(flag) {
			return control.HTTPQuestion{}, &usageError{"--" + flag + " goes with a URL: a file has the whole request in it", "why --http " + oneLine(what)}
		}
	}
	in := c.in
	if what != "-" {
		f, err := os.Open(what)
		if err != nil {
			return control.HTTPQuestion{}, &usageError{"read request: " + err.Error(), "name a file that you may read, or a URL with its scheme: why --http https://shop.com/"}
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxHead))
	if err != nil {
		return control.HTTPQuestion{}, fmt.Errorf("read request: %w", err)
	}
	return control.HTTPQuestion{Raw: raw}, nil
}

// head writes a request as curl would send it. Nothing is repaired: what is asked about is what is given.
func (c *call) head(text string) ([]byte, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || strings.ContainsAny(text, " \r\n") {
		return nil, &usageError{lists.Quote(text) + " is no URL", "why --http https://shop.com/cart?id=7"}
	}
	_, rest, _ := strings.Cut(text, "://")
	rest, _, _ = strings.Cut(rest, "#")
	target := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		target = strings.Replace("/"+rest[i:], "//", "/", 1)
	}
	method := cmp.Or(c.cli.String("request"), "GET")
	if strings.ContainsAny(method, " \r\n") {
		return nil, &usageError{"--request " + lists.Quote(method) + " is no method", "-X POST"}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, target)
	host := "Host: " + u.Host + "\r\n"
	var headers strings.Builder
	all, err := c.headers()
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		name, _, ok := strings.Cut(h, ":")
		if !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			return nil, &usageError{"a --header is no NAME: VALUE on one line", "-H 'Cookie: a=b'"}
		}
		if strings.EqualFold(strings.TrimSpace(name), "host") {
			host = ""
		}
		headers.WriteString(h + "\r\n")
	}
	if user := u.User.String(); user != "" {
		return nil, &usageError{"a URL with a password in it is not sent so", "--basic NAME:PASSWORD"}
	}
	b.WriteString(host + headers.String() + "\r\n")
	return b.Bytes(), nil
}

// headers are those of --header, and of what curl makes a header of.
func (c *call) headers() ([]string, error) {
	all := c.cli.StringSlice("header")
	if agent := c.cli.String("user-agent"); agent != "" {
		all = append(all, "User-Agent: "+agent)
	}
	if cookies := c.cli.StringSlice("cookie"); len(cookies) > 0 {
		for _, one := range cookies {
			if !strings.Contains(one, "=") {
				return nil, &usageError{"a --cookie is no NAME=VALUE: cookies of a file are not read", "-b 'a=b; c=d'"}
			}
		}
		all = append(all, "Cookie: "+strings.Join(cookies, "; "))
	}
	if user := c.cli.String("basic"); user != "" {
		all = append(all, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(user)))
	}
	return all, nil
}

func (c *call) writeWhyHTTP(w control.WhyHTTP) {
	fmt.Fprintln(c.out, oneLine(fmt.Sprintf("%s: %s, %s", cmp.Or(w.Request, "request"), w.Verdict, w.Reason)))
	line := func(format string, args ...any) { fmt.Fprintln(c.out, "  "+oneLine(fmt.Sprintf(format, args...))) }
	if e := w.Entry; e != nil {
		text := fmt.Sprintf("decided by %s %s", e.List, identifier(e.Kind, e.Name, e.Value))
		if e.Source != "" {
			text += ", source " + e.Source
		}
		line("%s", text)
	}
	if w.Answer != nil {
		line("answer: %d %s", w.Answer.Status, w.Answer.Reason)
	}
	line("api: %s, host %s", cmp.Or(w.API, "none"), cmp.Or(w.Host, "none"))
	if len(w.Paths) > 1 {
		for _, p := range w.Paths {
			line("path may be read as %s: api %s", p.Path, cmp.Or(p.API, "none"))
		}
	}
	line("client: %s", cmp.Or(w.Client, "not known"))
	for i, f := range w.Found {
		if len(f.Matches) == 0 && saidBetter(w.Found, i) {
			continue
		}
		line("%s, %s", identifier(f.Kind, f.Name, f.Value), foundText(f))
	}
	if len(w.Found) == 0 {
		line("no identifier is in it")
	}
	for _, n := range w.Notes {
		line("note: %s", n)
	}
}

// saidBetter reports whether a reading that nothing lists is one of several of the same value at the same place, of which
// another is listed or came before.
func saidBetter(all []control.HTTPIdentifier, i int) bool {
	for j, o := range all {
		f := all[i]
		same := o.Kind == f.Kind && o.Name == f.Name && o.Value == f.Value && o.Where == f.Where
		if same && (len(o.Matches) > 0 || j < i) {
			return true
		}
	}
	return false
}

func identifier(kind, name, value string) string {
	if name != "" {
		value = name + " " + value
	}
	return kind + " " + value
}

// foundText says where an identifier was and who lists it.
func foundText(f control.HTTPIdentifier) string {
	parts := []string{"in " + f.Where}
	if f.Spelling != "" {
		parts = append(parts, f.Spelling)
	}
	if f.Verified {
		parts = append(parts, "verified")
	}
	for _, m := range f.Matches {
		text := fmt.Sprintf("%s (%s)", m.List, m.Source)
		if !m.Counts {
			text += " does not count: " + m.Why
		}
		parts = append(parts, text)
	}
	if len(f.Matches) == 0 {
		parts = append(parts, "not listed")
	}
	return strings.Join(parts, ", ")
}
