package userspace

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestManagementConnectionsAreBounded: who holds connections to the management API open has so many and no more.
func TestManagementConnectionsAreBounded(t *testing.T) {
	n := &node{config: DefaultConfig(), log: slog.New(slog.DiscardHandler), limited: slog.New(slog.DiscardHandler)}
	n.config.StateDir = t.TempDir()
	o, err := ManagementConfig{Listen: "127.0.0.1:0"}.open(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	greet := func(within time.Duration) error {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := d.DialContext(ctx, "tcp", o.https[0].String())
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := greet(time.Minute); err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range maxManagement {
		c, err := net.Dial("tcp", o.https[0].String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if err := greet(500 * time.Millisecond); err == nil {
		t.Errorf("a connection beside %d is served", maxManagement)
	}
	for _, c := range held {
		c.Close()
	}
	if err := greet(time.Minute); err != nil {
		t.Errorf("when they are gone: %v", err)
	}
}

// TestManagementCertificateNamesTheListener: clients that trust the self-signed file reach the address of listen.
func TestManagementCertificateNamesTheListener(t *testing.T) {
	n := &node{config: DefaultConfig(), log: slog.New(slog.DiscardHandler), limited: slog.New(slog.DiscardHandler)}
	n.config.StateDir = t.TempDir()
	o, err := ManagementConfig{Listen: "127.0.0.9:0"}.open(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	o.close()
	pair, err := tls.LoadX509KeyPair(filepath.Join(n.config.StateDir, "management.crt"), filepath.Join(n.config.StateDir, "management.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Leaf.VerifyHostname("127.0.0.9"); err != nil {
		t.Error(err)
	}
}
