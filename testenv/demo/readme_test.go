package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadmeShowsTheDemo: what the README says the demo prints is the transcript that the demo is held to.
func TestReadmeShowsTheDemo(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "demo.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "<!-- demo -->\n```\n")
	got, _, closed := strings.Cut(rest, "```\n<!-- /demo -->\n")
	if !found || !closed {
		t.Fatal("README.md has no block between <!-- demo --> and <!-- /demo -->")
	}
	if got != string(want) {
		t.Errorf("README.md shows another demo than testdata/demo.txt: put the text of that file between the marks")
	}
}
