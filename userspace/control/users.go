package control

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/durable"
)

const (
	usersFile     = "users.json"
	defaultUser   = "admin"
	defaultPass   = "admin"
	maxUsers      = 64
	maxUsersFile  = 256 << 10
	hashesAtOnce  = 2
	maxRemembered = 256
)

// account is one user in users.json.
type account struct {
	Name string `json:"name"`
	Hash string `json:"hash"` // argon2id, PHC string format
	// Default: the password is the one that every new node has.
	Default bool `json:"default,omitempty"`
}

type usersDocument struct {
	Users []account `json:"users"`
}

// users are the accounts of a node. Safe for concurrent use.
//
// Hashes are costly on purpose: at most [hashesAtOnce] run, and a login that was right is remembered under an HMAC
// whose key only this process has, so that a thousand calls of a script cost one hash. A changed password
// changes what is remembered, for the hash is part of it.
type users struct {
	path string
	log  *slog.Logger
	slot chan struct{}
	key  [32]byte

	mu         sync.Mutex
	accounts   map[string]account
	broken     string // why users.json cannot be used
	remembered map[[32]byte]struct{}
	changing   sync.Mutex // one change at a time; held around disk and hash
	decoy      account    // verified in place of an account that is not there
}

// openUsers reads users.json. On a node that was never used it makes it with the default account; on another a missing one
// was lost, and the password of every new node must not open it.
func openUsers(dir string, used bool, log *slog.Logger) *users {
	u := &users{path: filepath.Join(dir, usersFile), log: log, slot: make(chan struct{}, hashesAtOnce),
		accounts: map[string]account{}, remembered: map[[32]byte]struct{}{}}
	rand.Read(u.key[:])
	accounts, err := readUsers(u.path)
	if errors.Is(err, os.ErrNotExist) && !used {
		accounts = map[string]account{defaultUser: {Name: defaultUser, Hash: hashPassword(defaultPass), Default: true}}
		if err = writeUsers(u.path, accounts); err != nil {
			log.Error("the first account is not on disk; every start makes it until that works", "error", err)
			err = nil
		}
	}
	if err != nil {
		u.broken = err.Error()
		log.Error("password logins are refused; root on the unix socket still works", "error", err)
	} else {
		u.accounts = accounts
	}
	// As costly as the real ones: how long an answer takes must not say whether an account exists.
	salted := make([]byte, 16)
	rand.Read(salted)
	u.decoy = account{Hash: hashPassword(string(salted))}
	return u
}

// keep is [Server.Keep].
func (u *users) keep() error {
	if !u.changing.TryLock() {
		return nil // somebody writes it
	}
	defer u.changing.Unlock()
	u.mu.Lock()
	broken, accounts := u.broken, u.accounts
	u.mu.Unlock()
	if broken == "" {
		if _, err := os.Lstat(u.path); !errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err := writeUsers(u.path, accounts); err != nil {
			return fmt.Errorf("removed users.json: %w", err)
		}
		u.log.Error("users.json was removed while in use, and is written anew")
		return nil
	}
	read, err := readUsers(u.path)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.broken = err.Error()
		return nil // warnings tell
	}
	u.accounts, u.broken = read, ""
	u.log.Info("password logins are taken: users.json can be read now")
	return nil
}

func readUsers(path string) (map[string]account, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read users: %s must be a file that only its owner can read (chmod 0600)", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxUsersFile+1))
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	var doc usersDocument
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read users: %s is corrupt: %w", path, err)
	}
	accounts := map[string]account{}
	for i, a := range doc.Users {
		if _, err := parseHash(a.Hash); err != nil {
			return nil, fmt.Errorf("read users: %s is corrupt: user %d: %w", path, i+1, err)
		}
		if _, twice := accounts[a.Name]; twice || !validUser(a.Name) {
			return nil, fmt.Errorf("read users: %s is corrupt: user %d: name %s is taken or not allowed", path, i+1, lists.Quote(a.Name))
		}
		accounts[a.Name] = a
	}
	if len(accounts) == 0 || len(accounts) > maxUsers || len(data) > maxUsersFile || dec.More() {
		return nil, fmt.Errorf("read users: %s is corrupt: expected 1 to %d users in at most %d bytes", path, maxUsers, maxUsersFile)
	}
	return accounts, nil
}

// validUser reports whether a name can be an account: it travels in HTTP Basic, where a colon ends it.
func validUser(name string) bool {
	return name != "" && len(name) <= 64 && name != rootUser &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

// writeUsers replaces the file: the old one or the new one survives a crash, never half of one.
func writeUsers(path string, accounts map[string]account) error {
	var doc usersDocument
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		doc.Users = append(doc.Users, accounts[name])
	}
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	if err := durable.Replace(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	return nil
}

// known reports whether there is such an account.
func (u *users) known(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.accounts[name]
	return ok
}

// isDefault reports whether an account has the password that every new node has.
func (u *users) isDefault(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.accounts[name].Default
}

// resettable reports whether root may set that user's password: it exists, or the file is lost anyway.
func (u *users) resettable(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.accounts[name]
	return ok || u.broken != "" && validUser(name)
}

// only returns the name of the one account, "" if there are several.
func (u *users) only() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.broken != "" {
		return defaultUser
	}
	if len(u.accounts) != 1 {
		return ""
	}
	for name := range u.accounts {
		return name
	}
	return ""
}

// warnings are what an admin should mend.
func (u *users) warnings() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var w []string
	if u.broken != "" {
		w = append(w, "password logins are refused: "+u.broken+"; as root, update_password makes a new users.json")
	}
	for _, a := range u.accounts {
		if a.Default {
			w = append(w, fmt.Sprintf("user %s has the password of every new node: change it with update_password", a.Name))
		}
	}
	return w
}

// verify checks a password. It takes as long for an account that is not there as for one that is.
func (u *users) verify(ctx context.Context, name, password string) *Error {
	u.mu.Lock()
	a, ok := u.accounts[name]
	broken := u.broken
	u.mu.Unlock()
	if broken != "" {
		return &Error{Code: CodeForbidden, Message: "password logins are refused: " + broken,
			Hint: "as root without -u, update_password makes a new users.json"}
	}
	if !ok {
		a = u.decoy
	}
	right, err := u.matches(ctx, a, password)
	if err != nil {
		return err
	}
	if !ok || !right {
		return &Error{Code: CodeForbidden, Message: "wrong user name or password", Hint: loginHint}
	}
	return nil
}

func (u *users) matches(ctx context.Context, a account, password string) (bool, *Error) {
	if len(password) > maxPassword {
		password = password[:maxPassword] + "…" // matches nothing, and costs what every wrong one costs
	}
	mac := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(mac, "%q%q%q", a.Name, a.Hash, password)
	ticket := [32]byte(mac.Sum(nil))
	if u.remembers(ticket) {
		return true, nil
	}
	select {
	case u.slot <- struct{}{}:
		defer func() { <-u.slot }()
	case <-ctx.Done():
		return false, &Error{Code: CodeFailed, Message: "the call ended before its password was checked"}
	}
	if u.remembers(ticket) { // by a call that was before this one in the queue
		return true, nil
	}
	h, err := parseHash(a.Hash)
	if err != nil {
		return false, &Error{Code: CodeFailed, Message: "check password: " + err.Error()}
	}
	if !h.matches(password) {
		return false, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.remembered) >= maxRemembered {
		clear(u.remembered)
	}
	u.remembered[ticket] = struct{}{}
	return true, nil
}

func (u *users) remembers(ticket [32]byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.remembered[ticket]
	return ok
}

// set makes a new password durable. A corrupt users.json is set aside and begun anew with this account.
func (u *users) set(ctx context.Context, name, password string) error {
	u.changing.Lock()
	defer u.changing.Unlock()
	select {
	case u.slot <- struct{}{}:
	case <-ctx.Done():
		return &Error{Code: CodeFailed, Message: "the call ended before the password was changed"}
	}
	a := account{Name: name, Hash: hashPassword(password), Default: name == defaultUser && password == defaultPass}
	<-u.slot

	u.mu.Lock()
	broken := u.broken != ""
	next := map[string]account{}
	for n, old := range u.accounts {
		next[n] = old
	}
	u.mu.Unlock()
	next[name] = a
	if broken {
		// A second name, not another one: without a users.json the next start would make admin/admin.
		err := ignoreMissing(os.Remove(u.path + ".broken"))
		if err == nil {
			err = ignoreMissing(os.Link(u.path, u.path+".broken"))
		}
		if err != nil {
			return &Error{Code: CodeFailed, Message: "set corrupt users.json aside: " + err.Error()}
		}
	}
	err := writeUsers(u.path, next)
	if err != nil && !errors.Is(err, durable.ErrUnsynced) {
		return &Error{Code: CodeFailed, Message: err.Error(), Hint: "the old password still holds; free space in the state directory and try again"}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.accounts, u.broken = next, ""
	clear(u.remembered)
	if err != nil {
		return &Error{Code: CodeFailed, Message: err.Error(), Hint: "the new password holds; look at the disk that holds the state directory"}
	}
	return nil
}
