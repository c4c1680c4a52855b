// Command portcullis is both ends of a gateway's block lists: `portcullis serve` is the daemon, every other command
// talks to it and speaks the words of PingIntelligence ASE, so that scripts written for cli.sh go on working.
//
// One table (table.go) says what commands, arguments and flags exist. The argument reader, the help, the completion
// scripts, the man page and docs/CLI.md are all made from it.
package main

//go:generate go test -count=1 -run TestCLIDocumentIsCurrent . -update
