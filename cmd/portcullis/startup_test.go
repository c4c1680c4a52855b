package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestStartup: systemd is told of each part of a start, but not of every step; a bar is for a terminal and big lists.
func TestStartup(t *testing.T) {
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	shown := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(master) // ends with EIO once the terminal is closed
		shown <- string(text)
	}()
	var told []string
	s := &startup{notify: func(state string) { told = append(told, state) }, log: slave, terminal: true}
	log := slog.New(slog.NewTextHandler(s, nil))
	s.progress("reading lists", 0, 0)
	const total = 1_000_000
	for done := 0; done <= total/2; done += 1000 {
		s.progress("filling kernel maps", done, total)
	}
	log.Info("in between")
	s.progress("filling kernel maps", total, total)
	s.ready()
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	if len(told) < 3 || len(told) > 10 || told[0] != "STATUS=reading lists" || told[1] != "STATUS=filling kernel maps: 0 of 1000000" ||
		told[len(told)-1] != "READY=1\nSTATUS=enforcing" {
		t.Errorf("systemd was told %q", told)
	}
	text := <-shown
	if !regexp.MustCompile(`filling kernel maps +\d+% `).MatchString(text) {
		t.Errorf("no bar: %q", text)
	}
	if !regexp.MustCompile(`\r +\rtime=\S+ level=INFO`).MatchString(text) {
		t.Errorf("the bar is not wiped away before the log: %q", text)
	}
}

// TestStartupWithoutTerminal: a log file holds nothing but the log.
func TestStartupWithoutTerminal(t *testing.T) {
	var text strings.Builder
	s := &startup{notify: func(string) {}, log: &text}
	for done := range 11 {
		s.progress("filling kernel maps", done*100_000, 1_000_000)
	}
	s.ready()
	fmt.Fprint(s, "a line\n")
	if text.String() != "a line\n" {
		t.Errorf("%q", text.String())
	}
	small := &startup{notify: func(string) {}, log: &text, terminal: true}
	small.progress("filling kernel maps", 10, barEntries-1)
	if text.String() != "a line\n" {
		t.Errorf("a bar for a small list: %q", text.String())
	}
}

// TestImportShowsProgress: a bar while a file is read, on a terminal only.
func TestImportShowsProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, bytes.Repeat([]byte("192.0.2.1\n"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(to io.Writer) {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m := &importing{call: &call{streams: &streams{err: to}}, name: "list"}
		if _, err := io.Copy(io.Discard, m.progress(f)); err != nil {
			t.Fatal(err)
		}
		m.clearBar()
	}
	var text strings.Builder
	if read(&text); text.String() != "" {
		t.Errorf("a log file gets %q", text.String())
	}
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	shown := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(master)
		shown <- string(text)
	}()
	read(slave)
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	if text := <-shown; !regexp.MustCompile(`reading list +\d+% `).MatchString(text) {
		t.Errorf("the terminal shows %q", text)
	}
}
