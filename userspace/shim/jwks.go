package shim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

var errKey = errors.New("no usable public key")

// parseKeys reads PEM public keys and certificates, or a JSON web key set (RFC 7517). shared: symmetric keys (kty oct)
// are taken too. Keys that are not for verifying signatures are skipped; a set without any that is, is an error.
func parseKeys(text []byte, shared bool) (all []verifyKey, err error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' {
		all, err = parseSet(trimmed, shared)
	} else {
		all, err = parsePEM(text)
	}
	switch {
	case err != nil:
		return nil, err
	case len(all) == 0:
		return nil, fmt.Errorf("%w: expected PEM public keys or a JSON web key set with keys for signatures", errKey)
	case len(all) > maxKeys:
		return nil, fmt.Errorf("%w: more than %d keys", errKey, maxKeys)
	}
	nameless := make(map[string]int)
	for _, k := range all {
		for _, a := range k.algorithms {
			if k.id == "" {
				nameless[a]++
			}
			if nameless[a] > maxTried {
				return nil, fmt.Errorf("%w: more than %d keys for %s without an id (kid): a token is tried with no more; give them ids, and the tokens too", errKey, maxTried, a)
			}
		}
	}
	return all, nil
}

func parsePEM(text []byte) (all []verifyKey, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all, nil
		}
		var key any
		switch block.Type {
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = c.PublicKey
			}
		default:
			return nil, fmt.Errorf("%w in a PEM block %q: expected PUBLIC KEY or CERTIFICATE", errKey, block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errKey, err)
		}
		k, err := newKey("", "", key)
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
}

// webKey is a key of a set; fields by RFC 7518, section 6, and RFC 8037.
type webKey struct {
	Type      string   `json:"kty"`
	ID        string   `json:"kid"`
	Use       string   `json:"use"`
	Ops       []string `json:"key_ops"`
	Algorithm string   `json:"alg"`
	Curve     string   `json:"crv"`
	N         string   `json:"n"`
	E         string   `json:"e"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
	K         string   `json:"k"`
}

func parseSet(text []byte, shared bool) (all []verifyKey, err error) {
	var set struct {
		Keys []webKey `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("read a JSON web key set: %w", err)
	}
	for i, w := range set.Keys {
		if w.Use != "" && w.Use != "sig" || len(w.Ops) > 0 && !slices.Contains(w.Ops, "verify") || w.Type == "oct" && !shared {
			continue
		}
		key, err := w.public()
		if err != nil {
			return nil, fmt.Errorf("key %d (kid %q): %w", i+1, w.ID, err)
		}
		k, err := newKey(w.ID, w.Algorithm, key)
		if err != nil {
			return nil, fmt.Errorf("key %d (kid %q): %w", i+1, w.ID, err)
		}
		all = append(all, k)
	}
	return all, nil
}

func (w webKey) public() (any, error) {
	field := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			return nil
		}
		return b
	}
	switch w.Type {
	case "RSA":
		n, e := new(big.Int).SetBytes(field(w.N)), new(big.Int).SetBytes(field(w.E))
		if !e.IsInt64() || e.Int64() > 1<<31-1 {
			return nil, fmt.Errorf("%w: the RSA exponent is too large", errKey)
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[w.Curve]
		if curve == nil {
			return nil, fmt.Errorf("%w: curve %q", errKey, w.Curve)
		}
		x, y, size := field(w.X), field(w.Y), (curve.Params().BitSize+7)/8
		if len(x) != size || len(y) != size {
			return nil, fmt.Errorf("%w: a coordinate of another length than the curve's", errKey)
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errKey, err)
		}
		return key, nil
	case "OKP":
		if x := field(w.X); w.Curve == "Ed25519" && len(x) == ed25519.PublicKeySize {
			return ed25519.PublicKey(x), nil
		}
		return nil, fmt.Errorf("%w: curve %q", errKey, w.Curve)
	case "oct":
		if k := field(w.K); len(k) >= 32 {
			return k, nil
		}
		return nil, fmt.Errorf("%w: a shared key of less than 32 bytes", errKey)
	}
	return nil, fmt.Errorf("%w: type %q", errKey, w.Type)
}

// newKey pins a key to the algorithms of its type, or to the one of them that it says it is for.
func newKey(id, algorithm string, key any) (verifyKey, error) {
	k := verifyKey{id: id, key: key}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 || key.E < 3 {
			return k, fmt.Errorf("%w: an RSA key of less than 2048 bits", errKey)
		}
		k.algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		a := map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[key.Curve.Params().BitSize]
		if a == "" {
			return k, fmt.Errorf("%w: curve %s", errKey, key.Curve.Params().Name)
		}
		k.algorithms = []string{a}
	case ed25519.PublicKey:
		k.algorithms = []string{"EdDSA"}
	case []byte:
		k.algorithms = []string{"HS256", "HS384", "HS512"}
	default:
		return k, fmt.Errorf("%w: type %T", errKey, key)
	}
	if algorithm == "" {
		return k, nil
	}
	if !slices.Contains(k.algorithms, algorithm) {
		return k, fmt.Errorf("%w: alg %q is not one of its type's: %v", errKey, algorithm, k.algorithms)
	}
	k.algorithms = []string{algorithm}
	return k, nil
}
