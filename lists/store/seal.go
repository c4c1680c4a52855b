package store

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/portcullis/portcullis/lists"
)

// sealVersion is the first schema version in which values are sealed.
const sealVersion = 3

// sealer turns the values of cookies, tokens, API keys and user names into what the database holds, and back. Nobody
// reads them, or finds out whether a guess is right, without the key. Addresses are no secret and stay as they are.
type sealer struct {
	id       string // names the key
	aead     cipher.AEAD
	nonceKey []byte
	hashKey  []byte
}

// keySize is the length of a key file.
const keySize = 32

func newSealer(key []byte) (*sealer, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("%d bytes long instead of %d", len(key), keySize)
	}
	derive := func(use string) ([]byte, error) {
		return hkdf.Key(sha256.New, key, nil, "portcullis lists: "+use, keySize)
	}
	var parts [4][]byte
	for i, use := range []string{"name", "seal", "nonce", "hash"} {
		var err error
		if parts[i], err = derive(use); err != nil {
			return nil, err
		}
	}
	aead, err := chacha20poly1305.NewX(parts[1])
	if err != nil {
		return nil, err
	}
	return &sealer{hex.EncodeToString(parts[0][:8]), aead, parts[2], parts[3]}, nil
}

// sealed reports whether identifiers of a kind are sealed.
func sealed(k lists.Kind) bool { return k != lists.KindIP }

// mac is a keyed hash of an identifier.
func mac(key []byte, id lists.ID) []byte {
	h := hmac.New(sha256.New, key)
	var c checksum
	c.ints(int64(id.Kind))
	c.texts(id.Name, id.Value)
	h.Write(c.buf)
	return h.Sum(nil)
}

// value is what the database holds in place of an identifier's value: the same each time, so that it can be looked for.
// The nonce is a keyed hash of all that is sealed, so no two values share one.
func (k *sealer) value(id lists.ID) string {
	if !sealed(id.Kind) {
		return id.Value
	}
	nonce := mac(k.nonceKey, id)[:chacha20poly1305.NonceSizeX]
	out := k.aead.Seal(nonce, nonce, []byte(id.Value), beside(id))
	return base64.RawStdEncoding.EncodeToString(out)
}

// beside is what a sealed value must stand beside.
func beside(id lists.ID) []byte { return append([]byte{byte(id.Kind)}, id.Name...) }

// open puts the value back into an identifier that value made.
func (k *sealer) open(id *lists.ID) error {
	if !sealed(id.Kind) {
		return nil
	}
	b, err := base64.RawStdEncoding.DecodeString(id.Value)
	if err != nil || len(b) < chacha20poly1305.NonceSizeX {
		return fmt.Errorf("%w: a sealed %s cannot be read", ErrCorrupt, id.Kind)
	}
	plain, err := k.aead.Open(nil, b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:], beside(*id))
	if err != nil {
		return fmt.Errorf("%w: a sealed %s was changed", ErrCorrupt, id.Kind)
	}
	id.Value = string(plain)
	return nil
}

// hash finds rows by identifier. It is a strong hash cut short: who chooses identifiers cannot make them collide.
func (k *sealer) hash(id lists.ID) int64 {
	if sealed(id.Kind) {
		return int64(binary.LittleEndian.Uint64(mac(k.hashKey, id)))
	}
	return hashID(id)
}

// entry returns the entry as the history holds it.
func (k *sealer) entry(e *lists.Entry) *lists.Entry {
	if e == nil || !sealed(e.ID.Kind) {
		return e
	}
	out := *e
	out.ID.Value = k.value(e.ID)
	return &out
}

// sealedChunk is the first byte of a chunk that is sealed; others begin with a tag of lists.Pack.
const sealedChunk = 0xff

// chunk seals the data of a chunk that holds identifiers other than addresses.
func (k *sealer) chunk(c lists.Chunk, seq int64) []byte {
	if !c.HasText() {
		return c.Data
	}
	out := make([]byte, 1+chacha20poly1305.NonceSizeX, 1+chacha20poly1305.NonceSizeX+len(c.Data)+chacha20poly1305.Overhead)
	out[0] = sealedChunk
	rand.Read(out[1:])
	return k.aead.Seal(out, out[1:], c.Data, ofChunk(c.List, seq))
}

func ofChunk(l lists.List, seq int64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{byte(l)}, uint64(seq))
}

// openChunk is the inverse of chunk.
func (k *sealer) openChunk(l lists.List, seq int64, data []byte) ([]byte, error) {
	if len(data) == 0 || data[0] != sealedChunk {
		return data, nil
	}
	if data = data[1:]; len(data) < chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("%w: chunk %d of %s is cut", ErrCorrupt, seq, l)
	}
	plain, err := k.aead.Open(nil, data[:chacha20poly1305.NonceSizeX], data[chacha20poly1305.NonceSizeX:], ofChunk(l, seq))
	if err != nil {
		return nil, fmt.Errorf("%w: sealed chunk %d of %s was changed", ErrCorrupt, seq, l)
	}
	return plain, nil
}
