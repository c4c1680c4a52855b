package shim

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/maphash"
	"math/bits"
	"time"
	"unsafe"

	"github.com/portcullis/portcullis/lists"
)

// meta is what a listing says beside what it lists: its end, list and source. Never 0.
type meta uint64

const (
	metaNever      = 1<<48 - 1 // the end of what has none
	metaEndShift   = 16
	metaSource     = 8
	metaSourceMask = 0xff
	metaListMask   = 0xf
)

func metaOf(e lists.Entry) meta {
	end := uint64(metaNever)
	if !e.Expires.IsZero() {
		end = uint64(min(max(e.Expires.Unix(), 0), metaNever-1))
	}
	return meta(end<<metaEndShift | uint64(e.Source)<<metaSource | uint64(e.List))
}

func (m meta) list() lists.List     { return lists.List(m & metaListMask) }
func (m meta) source() lists.Source { return lists.Source(m >> metaSource & metaSourceMask) }

// live reports whether the listing counts at a time in Unix seconds.
func (m meta) live(now int64) bool { return int64(m>>metaEndShift) > now }

// expires is the zero time if the listing has no end.
func (m meta) expires() time.Time {
	if m>>metaEndShift == metaNever {
		return time.Time{}
	}
	return time.Unix(int64(m>>metaEndShift), 0).UTC()
}

// form says which part or spelling of a value is listed. Values of different forms or kinds never meet.
type form uint8

const (
	formPlain  form = iota // a spelling, under the folded name
	formJWT                // header.payload of a JSON web token
	formSigned             // the same with the signature's bytes
	formCase               // a username in lower case
	formStrict             // exactly this value under exactly this name: what the whitelist matches
	formHeader             // the same under a header's name in lower case
)

// key is a value to be looked up or listed.
type key struct {
	kind  lists.Kind
	form  form
	name  string // folded unless form is formStrict or formHeader; "" for kinds without
	value string
}

// secret is what fingerprints of one process are made with. Nobody can choose values that collide, and what is in
// memory does not tell the values.
type secret struct {
	seed maphash.Seed
	key  [16]byte
}

func newSecret() *secret {
	s := &secret{seed: maphash.MakeSeed()}
	if _, err := rand.Read(s.key[:]); err != nil { // never: the runtime ends the process instead
		panic(err)
	}
	return s
}

// name hashes a folded or exact name.
func (s *secret) name(name string) uint64 {
	if name == "" {
		return 0
	}
	return maphash.String(s.seed, name)
}

// tag is the quick half of a fingerprint; name is what secret.name said of k's.
func (s *secret) tag(kind lists.Kind, f form, name uint64, value string) uint64 {
	h := maphash.String(s.seed, value)
	hi, lo := bits.Mul64(h^name^uint64(kind)<<56^uint64(f)<<48, 0x9e3779b97f4a7c15)
	return hi ^ lo ^ bits.RotateLeft64(name, 23)
}

// summer computes the slow half; it is not safe for concurrent use.
type summer struct {
	hash hash.Hash
	buf  [sha256.Size]byte
}

func (m *summer) sum(s *secret, k key) [2]uint64 {
	if m.hash == nil {
		m.hash = sha256.New()
	} else {
		m.hash.Reset()
	}
	head := append(m.buf[:0], s.key[:]...)
	head = append(head, byte(k.kind), byte(k.form))
	head = binary.BigEndian.AppendUint32(head, uint32(len(k.name)))
	m.hash.Write(head)
	m.hash.Write(bytesOf(k.name))
	m.hash.Write(bytesOf(k.value))
	m.hash.Sum(m.buf[:0])
	return [2]uint64{binary.LittleEndian.Uint64(m.buf[:]), binary.LittleEndian.Uint64(m.buf[8:])}
}

func (m *summer) fingerprint(s *secret, k key) fingerprint {
	return fingerprint{s.tag(k.kind, k.form, s.name(k.name), k.value), m.sum(s, k)}
}

// bytesOf and textOf look at the same memory in the other type, without a copy: what they return must not be changed,
// and counts only as long as the memory under it is not.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
func textOf(b []byte) string  { return unsafe.String(unsafe.SliceData(b), len(b)) }
