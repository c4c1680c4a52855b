package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificates are pairs of files and what was read of them last.
type certificates struct {
	files  []Certificate
	stamps []string // of the files, as last looked at
	log    *slog.Logger
	loaded atomic.Pointer[[]*tls.Certificate]
	config *tls.Config
}

// watchEvery is how often the files are looked at.
const watchEvery = 2 * time.Second

var errNoCertificate = errors.New("no certificate")

func newCertificates(files []Certificate, log *slog.Logger) (*certificates, error) {
	c := &certificates{files: files, log: log, stamps: make([]string, len(files))}
	c.config = &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	all := make([]*tls.Certificate, len(files))
	for i, f := range files {
		c.stamps[i] = f.stamp()
		var err error
		if all[i], err = f.load(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOptions, err)
		}
	}
	c.loaded.Store(&all)
	return c, nil
}

func (c *certificates) empty() bool { return len(c.files) == 0 }

func (f Certificate) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s with key %s: %w", f.CertFile, f.KeyFile, err)
	}
	return &pair, nil
}

// stamp changes when the files do.
func (f Certificate) stamp() string {
	text := ""
	for _, name := range []string{f.CertFile, f.KeyFile} {
		if info, err := os.Stat(name); err != nil {
			text += err.Error()
		} else {
			text += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), " ")
		}
	}
	return text
}

// get returns the first certificate that is for the name that the client asks for, else the first.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	all := *c.loaded.Load()
	for _, one := range all {
		if hello.SupportsCertificate(one) == nil {
			return one, nil
		}
	}
	if len(all) == 0 {
		return nil, errNoCertificate
	}
	return all[0], nil
}

// watch reads files again that have changed, until ctx ends.
func (c *certificates) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.reload()
		}
	}
}

// reload reads what has changed. A pair that does not fit keeps the old one: it is being written, or is wrong.
func (c *certificates) reload() {
	var all []*tls.Certificate
	for i, f := range c.files {
		stamp := f.stamp()
		if stamp == c.stamps[i] {
			continue
		}
		c.stamps[i] = stamp
		pair, err := f.load()
		if err != nil {
			c.log.Error("certificate not taken over, the one before stays in force", "error", err)
			continue
		}
		if all == nil {
			all = append(all, *c.loaded.Load()...)
		}
		all[i] = pair
		c.log.Info("certificate taken over", "file", f.CertFile, "until", pair.Leaf.NotAfter)
	}
	if all != nil {
		c.loaded.Store(&all)
	}
}
