package userspace

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/detect"
	"github.com/portcullis/portcullis/userspace/shim"
)

// DetectConfig is the section [detect]. The switch is a command: enable_ase_detected_attack.
type DetectConfig struct {
	// TTL is how long entries live, by source (decoy, invalid_method, ...); a source that is not there: for ever.
	TTL     map[string]string `toml:"ttl"`
	Webhook string            `toml:"webhook"` // URL that the first touch of a decoy is posted to; "": none
	// IPv6Clients is how many detected addresses of one /64 are listed at once (0: 16); IPv6Network: beyond them the /64 is
	// listed, instead of the newest ones only.
	IPv6Clients int  `toml:"ipv6_clients"`
	IPv6Network bool `toml:"ipv6_network"`
}

func (c DetectConfig) check(bad badKey) error {
	if _, err := c.ttl(); err != nil {
		return bad("ttl", "%s", err)
	}
	if c.IPv6Clients < 0 || c.IPv6Clients > maxCrowd {
		return bad("ipv6_clients", "%d is not from 1 to %d", c.IPv6Clients, maxCrowd)
	}
	if c.Webhook == "" {
		return nil
	}
	if u, err := url.Parse(c.Webhook); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return bad("webhook", "%q is no http or https URL", c.Webhook)
	}
	return nil
}

func (c DetectConfig) ttl() (map[lists.Source]time.Duration, error) {
	all := make(map[lists.Source]time.Duration)
	for word, text := range c.TTL {
		source, err := lists.ParseSource(word)
		if err != nil || !source.Realtime() {
			return nil, fmt.Errorf("%q is not one of decoy, invalid_protocol, invalid_method, invalid_content_type, missing_token", word)
		}
		if all[source], err = lists.ParseFor(text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Bounds of what waits to be written or sent: beyond them it is lost, counted, and said in the log.
const (
	maxFindings = 4096
	maxAlerts   = 256
)

// detection takes what the detectors find to the lists. Its Report and alert never block; one goroutine (run) writes.
type detection struct {
	detector *detect.Detector
	node     *node
	findings chan lists.Entry
	alerts   chan detect.Touch
	lost     atomic.Uint64 // findings
	unsent   atomic.Uint64 // alerts
	crowds   crowds
	http     http.Client
}

func newDetection(n *node) (*detection, error) {
	ttl, err := n.config.Detect.ttl()
	if err != nil {
		return nil, err
	}
	d := &detection{
		node: n, findings: make(chan lists.Entry, maxFindings), alerts: make(chan detect.Touch, maxAlerts),
		http:   http.Client{Timeout: 10 * time.Second},
		crowds: crowds{limit: cmp.Or(n.config.Detect.IPv6Clients, defaultCrowd), network: n.config.Detect.IPv6Network},
	}
	d.detector = detect.New(detect.Options{
		Settings: func() lists.Settings { return n.Snapshot().Settings() },
		Report:   d.report, Alert: d.alert, TTL: ttl, Now: n.store.Clock().Now,
	})
	return d, nil
}

// look is the shim's Detect.
func (d *detection) look(r *http.Request, seen shim.Seen) (apis.Answer, lists.Source, bool) {
	f, ok := d.detector.Look(detect.Request{
		HTTP: r, API: seen.API, Client: seen.Client, HTTPS: seen.HTTPS, SchemeUnknown: seen.SchemeUnknown,
		HasToken: seen.HasToken, Whitelisted: seen.Whitelisted, Credentials: seen.Credentials,
		Paths: seen.Paths,
	})
	return f.Answer, f.Source, ok
}

// report queues an entry; what is listed already by this source is left alone.
func (d *detection) report(e lists.Entry) {
	if _, listed := d.node.Snapshot().Get(e.Key); listed {
		return
	}
	select {
	case d.findings <- e:
	default:
		d.lost.Add(1)
	}
}

func (d *detection) alert(t detect.Touch) {
	d.node.limited.Warn("decoy touched", "client", t.Client, "api", t.API, "method", lists.Quote(t.Method), "path", lists.Quote(t.Path), "blacklisted", t.Listed)
	if d.node.config.Detect.Webhook == "" {
		return
	}
	select {
	case d.alerts <- t:
	default:
		d.unsent.Add(1)
	}
}

// run writes findings and sends alerts until ctx ends.
func (d *detection) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case e := <-d.findings:
				d.apply(ctx, d.more([]lists.Entry{e}))
			}
		}
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case t := <-d.alerts:
				if n := d.unsent.Swap(0); n > 0 {
					d.node.limited.Warn("the webhook is too slow", "webhook", d.node.config.Detect.Webhook, "alerts not sent", n)
				}
				if err := d.post(ctx, t); err != nil && ctx.Err() == nil {
					d.node.limited.Warn("cannot send an alert", "webhook", d.node.config.Detect.Webhook, "error", err)
				}
			}
		}
	})
	return g.Wait()
}

// more takes what else waits, once an entry.
func (d *detection) more(batch []lists.Entry) []lists.Entry {
	for len(batch) < 256 {
		select {
		case e := <-d.findings:
			if !slices.ContainsFunc(batch, func(o lists.Entry) bool { return o.Key == e.Key }) {
				batch = append(batch, e)
			}
		default:
			return batch
		}
	}
	return batch
}

// apply lists what the guard lets it, together, and where that is refused, one by one.
func (d *detection) apply(ctx context.Context, found []lists.Entry) {
	if lost := d.lost.Swap(0); lost > 0 {
		d.node.limited.Error("more was found than could be listed", "lost", lost)
	}
	var ops []lists.Operation
	now := d.node.store.Clock().Now()
	fresh := make(map[lists.Key]bool)
	for _, e := range found {
		op := lists.Operation{Op: lists.OpAdd, Entry: e}
		if _, err := checkLockOut(request(op), d.node.Snapshot(), *d.node.protected.Load(), now); err != nil {
			d.node.limited.Warn("not blacklisted, though detected", "id", redacted(e.ID), "source", e.Source, "why", err)
			continue
		}
		gone, add := d.crowds.place(d.node.Snapshot(), e, fresh, func(network lists.Entry) bool { return d.mayListNetwork(network, now) })
		for _, k := range gone {
			ops = append(ops, lists.Operation{Op: lists.OpDeleteKey, Entry: lists.Entry{Key: k}})
		}
		ops = append(ops, lists.Operation{Op: lists.OpAdd, Entry: add})
	}
	if len(ops) == 0 || !d.node.Snapshot().Settings().ASEDetectedAttack { // switched off meanwhile
		return
	}
	err := d.write(ctx, ops...)
	if err == nil {
		return
	}
	for _, op := range ops {
		if err := d.write(ctx, op); err != nil {
			d.node.limited.Error("detected, and cannot be blacklisted", "id", redacted(op.Entry.ID), "source", op.Entry.Source, "error", err)
		}
	}
}

func (d *detection) write(ctx context.Context, ops ...lists.Operation) error {
	if _, err := d.node.store.Apply(ctx, request(ops...).Batch); err != nil {
		return err
	}
	for _, op := range ops {
		if op.Op == lists.OpDeleteKey {
			d.node.log.Info("no longer blacklisted: too many of its network are", "id", redacted(op.Entry.ID), "source", op.Entry.Source)
			continue
		}
		d.node.log.Info("blacklisted", "id", redacted(op.Entry.ID), "source", op.Entry.Source, "reason", op.Entry.Reason)
	}
	return nil
}

// request is the detectors' own.
func request(ops ...lists.Operation) control.Request {
	return control.Request{Batch: lists.Batch{Ops: ops, By: "ase", Via: "detect"}}
}

// redacted is an identifier without its secret.
func redacted(id lists.ID) slog.Value {
	switch id.Kind {
	case lists.KindIP:
		return slog.StringValue(id.Kind.String() + " " + lists.Quote(id.Value))
	}
	return slog.StringValue(id.Kind.String() + " " + id.Name + " **********")
}

// post sends one alert.
func (d *detection) post(ctx context.Context, t detect.Touch) error {
	body, err := json.Marshal(struct {
		Event       string    `json:"event"`
		Time        time.Time `json:"time"`
		Client      string    `json:"client"`
		API         string    `json:"api"`
		Method      string    `json:"method"`
		Path        string    `json:"path"`
		InContext   bool      `json:"in_context"`
		Blacklisted bool      `json:"blacklisted"`
	}{"decoy_touched", d.node.store.Clock().Now().UTC(), t.Client.String(), t.API, t.Method, t.Path, t.Context, t.Listed})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.node.config.Detect.Webhook, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := d.http.Do(r)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return errors.New(resp.Status)
	}
	return nil
}
