package control

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// maxPassword bounds a password, in bytes.
const maxPassword = 128

// checkPassword is what a new password must be.
func checkPassword(p string) error {
	switch {
	case p == "":
		return invalid("new password is empty")
	case len(p) > maxPassword:
		return invalid("new password has %d bytes: at most %d", len(p), maxPassword)
	case !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }):
		return invalid("new password has control characters or is not UTF-8")
	}
	return nil
}

// argonParams are the cost of one hash. Those of new hashes are the second choice of OWASP's password storage
// cheat sheet (m=19 MiB, t=2, p=1).
type argonParams struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

func newHashParams() argonParams { return argonParams{memory: 19 << 10, time: 2, threads: 1} }

const (
	saltBytes = 16
	hashBytes = 32
)

// hashPassword returns the password's argon2id hash in PHC string format.
func hashPassword(password string) string {
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	p := newHashParams()
	sum := argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, hashBytes)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads, b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// passwordHash is a parsed PHC string.
type passwordHash struct {
	argonParams
	salt, sum []byte
}

// parseHash reads a PHC string. Costs beyond what this host should spend on a login are refused.
func parseHash(phc string) (h passwordHash, err error) {
	bad := errors.New("not an argon2id hash in PHC format")
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return h, bad
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); err != nil ||
		fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.time, h.threads) != parts[3] {
		return h, bad
	}
	if h.memory < 8 || h.memory > 1<<18 || h.time < 1 || h.time > 16 || h.threads < 1 || h.threads > 16 {
		return h, errors.New("argon2id cost is out of range")
	}
	var errSalt, errSum error
	h.salt, errSalt = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.sum, errSum = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errSalt != nil || errSum != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.sum) < 16 || len(h.sum) > 64 {
		return h, bad
	}
	return h, nil
}

func (h passwordHash) matches(password string) bool {
	sum := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}
