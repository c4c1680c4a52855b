package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// remembered is what the cases of TestFaults know of what the daemon keeps.
type remembered struct {
	next      int        // number of the next address, name, password
	victim    netip.Addr // listed by the last case, to be deleted by the next
	api       string     // the API definition that the last case added, to be changed by the next
	oldAPI    string     // the one that was changed, to be deleted
	token     string     // the sideband token that it imported, to be deleted
	password  string     // of admin, as far as is known
	passwords []string   // and what it may be as well
}

// state is what a node has in force, each thing under a name of its own; what is not there is gone.
type state map[string]string

const (
	dropped = "dropped"
	passed  = "passed" // whitelisted
	gone    = ""
	valid   = "valid"
)

// change changes all that a daemon keeps, and the interface, and returns what was answered.
func (r *faultRig) change() state {
	r.t.Helper()
	answered := make(state)
	r.changeLists(answered)
	r.changeAPIs(answered)
	r.changeTokens(answered)
	r.changePassword(answered)
	r.must(r.Gateway.Delete("eth0"))
	r.must(testenv.Connect(r.Gateway.Namespace, "eth0", r.Internet.Namespace, "uplink0"))
	r.awaitCopy()
	return answered
}

// note notes what a command was to make of a thing. After an error that may be so or not: the fault may have hit the answer.
func (r *faultRig) note(answered state, what, is string, err error) bool {
	if err != nil {
		r.tally.Refused++
		delete(answered, what)
		return false
	}
	r.tally.Answered++
	answered[what] = is
	return true
}

// changeLists changes lists and switches. What is answered is so with the next packet.
func (r *faultRig) changeLists(answered state) {
	r.t.Helper()
	add, kept, batch := r.address(), r.address(), []netip.Addr{r.address(), r.address()}
	probe := r.probe()
	defer probe.close()
	note := func(want string, addrs []netip.Addr, err error) {
		r.t.Helper()
		for _, a := range addrs {
			if !r.note(answered, a.String(), want, err) {
				continue
			}
			if got := probe.dropped(a); got != (want == dropped) {
				r.t.Errorf("it was answered that packets of %s are dropped: %v, but they are: %v", a, want == dropped, got)
			}
		}
	}
	try := func(want string, addrs []netip.Addr, ops ...control.Operation) {
		r.t.Helper()
		_, err := r.client.Apply(context.Background(), ops)
		note(want, addrs, err)
	}
	op := func(op, list string, a netip.Addr) control.Operation {
		return control.Operation{Op: op, List: list, Kind: "ip", Value: a.String()}
	}
	firewall := func(to string) control.Operation { return control.Operation{Op: "set", Setting: "firewall", To: to} }
	try(dropped, []netip.Addr{add}, op("add", "blacklist", add))
	try(passed, []netip.Addr{kept}, op("add", "blacklist", kept), op("add", "whitelist", kept))
	if r.kept.victim.IsValid() {
		try(gone, []netip.Addr{r.kept.victim}, op("delete", "blacklist", r.kept.victim))
	}
	try(dropped, batch, op("add", "blacklist", batch[0]), op("add", "blacklist", batch[1]))
	imported := []netip.Addr{r.address(), r.address()}
	note(dropped, imported, r.importAll(imported))
	hush := fmt.Sprintf("hush%d", r.kept.next) // which is sealed
	_, err := r.client.Apply(context.Background(), []control.Operation{{Op: "add", List: "blacklist", Kind: "token", Value: hush}})
	r.note(answered, hush, dropped, err)
	try(gone, nil, firewall("disabled"))
	try(gone, nil, firewall("enabled"))
	r.kept.victim = add
}

// importAll imports addresses into the blacklist, which takes another way through the store than an add.
func (r *faultRig) importAll(addrs []netip.Addr) error {
	_, err := r.client.Import(context.Background(), control.ImportOptions{}, func(yield func(control.ImportEntry, error) bool) {
		for _, a := range addrs {
			id, _ := lists.PrefixID(netip.PrefixFrom(a, a.BitLen()))
			e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}
			if !yield(control.ImportEntry{Entry: e}, nil) {
				return
			}
		}
	})
	return err
}

func (r *faultRig) address() netip.Addr {
	r.kept.next++
	return netip.AddrFrom4([4]byte{10, 9, byte(r.kept.next >> 8), byte(r.kept.next)})
}

// changeAPIs adds an API definition, and changes and deletes the one of the last case.
func (r *faultRig) changeAPIs(answered state) {
	ctx := context.Background()
	change := func(how control.DefinitionChange, id, url string) {
		text := fmt.Sprintf(`{"api_metadata": {"protocol": "http", "url": %q, "hostname": %q, "enable_blocking": true}}`, url, id+".example")
		_, _, err := r.client.ChangeAPI(ctx, how, id+".json", text)
		r.note(answered, "api "+id, url, err)
	}
	id := fmt.Sprintf("api%d", r.kept.next)
	change(control.AddAPI, id, "/first")
	if old := r.kept.api; old != "" {
		change(control.UpdateAPI, old, "/second")
		url := answered["api "+old]
		if _, err := r.client.SetBlocking(ctx, old, false); url != "" {
			r.note(answered, "api "+old, url+" open", err)
		}
	}
	if old := r.kept.oldAPI; old != "" {
		_, _, err := r.client.ChangeAPI(ctx, control.DeleteAPI, old+".json", "")
		r.note(answered, "api "+old, gone, err)
	}
	r.kept.oldAPI, r.kept.api = r.kept.api, id
}

// changeTokens makes a sideband token, imports one and deletes that of the last case.
func (r *faultRig) changeTokens(answered state) {
	ctx := context.Background()
	made, err := r.client.CreateSidebandToken(ctx)
	r.note(answered, "sideband "+made, valid, err)
	token := fmt.Sprintf("%032d", r.kept.next)
	r.note(answered, "sideband "+token, valid, r.client.ImportSidebandToken(ctx, token))
	if old := r.kept.token; old != "" {
		r.note(answered, "sideband "+old, gone, r.client.DeleteSidebandToken(ctx, old))
	}
	r.kept.token = token
}

// changePassword changes that of admin.
func (r *faultRig) changePassword(answered state) {
	admin := control.Client{Socket: r.daemon.Socket, User: "admin"} // root, who need not know the old one
	password := fmt.Sprintf("password %d", r.kept.next)
	r.kept.passwords = append(r.kept.passwords, r.kept.password)
	if r.note(answered, "password", password, admin.SetPassword(context.Background(), "", password)) {
		r.kept.password = password
	} else {
		r.kept.passwords = append(r.kept.passwords, password)
	}
}

// awaitCopy waits until a copy of the lists is made, or could not be.
func (r *faultRig) awaitCopy() {
	r.t.Helper()
	_ = testenv.Poll(3*time.Second, func() error {
		if copies := r.copies(); len(copies) > 0 || r.ended() {
			r.tally.Copies += min(1, len(copies))
			return nil
		}
		s, err := r.client.Status(context.Background())
		if err == nil && !strings.Contains(strings.Join(s.Warnings, "\n"), "the last write or copy failed") {
			err = errors.New("no copy yet")
		}
		return err
	})
}

func (r *faultRig) copies() []string {
	r.t.Helper()
	copies, err := filepath.Glob(filepath.Join(r.daemon.StateDir, "snapshots", "lists-*.db"))
	r.must(err)
	return copies
}

// wearOut makes the copies of the lists due, and the audit log's rotation.
func (r *faultRig) wearOut() {
	r.t.Helper()
	for _, path := range r.copies() {
		r.must(os.Remove(path))
	}
	chain := filepath.Join(r.daemon.StateDir, "audit.chain")
	text, err := os.ReadFile(chain)
	r.must(err)
	old := regexp.MustCompile(`^start \d{4}-\d\d-\d\d`).ReplaceAll(text, []byte("start 2001-01-01"))
	if bytes.Equal(old, text) {
		r.t.Fatalf("%s begins with %.40q", chain, text)
	}
	r.must(os.WriteFile(chain, old, 0o600))
}

// observe asks the daemon for all that it has in force.
func (r *faultRig) observe() state {
	r.t.Helper()
	ctx := context.Background()
	now := make(state)
	for _, l := range []lists.List{lists.Blacklist, lists.Whitelist} {
		for e, err := range r.client.List(ctx, l) {
			r.must(err)
			now[e.ID.Value] = map[lists.List]string{lists.Blacklist: dropped, lists.Whitelist: passed}[l]
		}
	}
	apis, err := r.client.APIs(ctx)
	r.must(err)
	for _, a := range apis {
		if now["api "+a.ID] = a.URL; !a.EnableBlocking {
			now["api "+a.ID] += " open"
		}
		if a.Problem != "" {
			r.t.Errorf("API %s: %s", a.ID, a.Problem)
		}
	}
	tokens, err := r.client.SidebandTokens(ctx)
	r.must(err)
	for _, t := range tokens {
		now["sideband "+t.Token] = valid
	}
	for _, p := range append([]string{r.kept.password}, r.kept.passwords...) {
		as := control.Client{Socket: r.daemon.Socket, User: "admin", Password: p}
		if _, err = as.AuthMethod(ctx); err == nil {
			now["password"] = p
			break
		}
	}
	if err != nil {
		r.t.Errorf("no password of %q and %q works: %v", r.kept.password, r.kept.passwords, err)
	}
	r.kept.password, r.kept.passwords = now["password"], nil
	return now
}

// judge compares what becomes of packets with what is listed.
func (r *faultRig) judge(listed state) {
	r.t.Helper()
	probe := r.probe()
	defer probe.close()
	for i := max(1, r.kept.next-18); i <= r.kept.next; i++ {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		if got := probe.dropped(a); got != (listed[a.String()] == dropped) {
			r.t.Errorf("%s: packets are dropped: %v; by the lists: %s", a, got, listed[a.String()])
		}
	}
}

// sound looks at what only shows when it is needed: the chain of the audit log, and the copies of the lists.
func (r *faultRig) sound() {
	r.t.Helper()
	if _, err := r.client.VerifyAudit(context.Background()); err != nil {
		r.t.Error(err)
	}
	for _, path := range r.copies() {
		dir := filepath.Join(r.Lab.Dir, "restored")
		r.must(os.Mkdir(dir, 0o700))
		for from, to := range map[string]string{path: "lists.db", filepath.Join(r.daemon.StateDir, "lists.key"): "lists.key"} {
			text, err := os.ReadFile(from)
			r.must(errors.Join(err, os.WriteFile(filepath.Join(dir, to), text, 0o600)))
		}
		s, err := store.Open(store.Options{Dir: dir}, nil)
		if err != nil {
			r.t.Errorf("%s: %v", path, err)
		} else {
			r.must(s.Close())
		}
		r.must(os.RemoveAll(dir))
	}
}

// tidy keeps everything short.
func (r *faultRig) tidy(now state) {
	r.t.Helper()
	if len(now) < 200 {
		return
	}
	ctx := context.Background()
	for _, list := range []string{"blacklist", "whitelist"} {
		_, err := r.client.Apply(ctx, []control.Operation{{Op: "clear", List: list}})
		r.must(err)
	}
	r.kept.victim = netip.Addr{}
	for name := range now {
		if id, ok := strings.CutPrefix(name, "api "); ok && id != "root" && id != r.kept.api && id != r.kept.oldAPI {
			_, _, err := r.client.ChangeAPI(ctx, control.DeleteAPI, id+".json", "")
			r.must(err)
		}
		if token, ok := strings.CutPrefix(name, "sideband "); ok && token != r.kept.token {
			r.must(r.client.DeleteSidebandToken(ctx, token))
		}
	}
}
