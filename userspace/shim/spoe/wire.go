package spoe

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Types of frames.
const (
	frameUnset           = 0 // what follows of a fragmented payload
	frameHello           = 1
	frameDisconnect      = 2
	frameNotify          = 3
	frameAgentHello      = 101
	frameAgentDisconnect = 102
	frameAck             = 103
)

// Flags of frames.
const (
	flagFin   = 1
	flagAbort = 2
)

// Types of data, in the low half of the type byte; a bool has its value in the high half.
const (
	typeNull   = 0
	typeBool   = 1
	typeInt32  = 2
	typeUint32 = 3
	typeInt64  = 4
	typeUint64 = 5
	typeIPv4   = 6
	typeIPv6   = 7
	typeString = 8
	typeBinary = 9

	typeMask = 0x0f
	boolTrue = 0x10
)

// Actions, and the scope of the variables that they set.
const (
	actionSetVar = 1
	scopeTxn     = 2
)

// errFrame: a frame is not what SPOP says.
var errFrame = errors.New("invalid frame")

// frame is one frame, cut out of what was read.
type frame struct {
	kind    byte
	flags   uint32
	stream  uint64
	id      uint64
	payload []byte
}

// parseFrame reads a frame without its length.
func parseFrame(b []byte) (f frame, err error) {
	if len(b) < 7 {
		return f, errFrame
	}
	f.kind, f.flags = b[0], binary.BigEndian.Uint32(b[1:])
	b = b[5:]
	if f.stream, b, err = takeVarint(b); err != nil {
		return f, err
	}
	f.id, f.payload, err = takeVarint(b)
	return f, err
}

// takeVarint reads an integer and returns what follows it. Most have one byte: the rest is apart so that this is inlined.
func takeVarint(b []byte) (v uint64, rest []byte, err error) {
	if len(b) > 0 && b[0] < 240 {
		return uint64(b[0]), b[1:], nil
	}
	return takeLong(b)
}

func takeLong(b []byte) (v uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errFrame
	}
	v = uint64(b[0])
	for i, shift := 1, 4; i < len(b) && i < 10; i, shift = i+1, shift+7 {
		v += uint64(b[i]) << shift
		if b[i] < 128 {
			return v, b[i+1:], nil
		}
	}
	return 0, nil, errFrame
}

func appendVarint(b []byte, v uint64) []byte {
	if v < 240 {
		return append(b, byte(v))
	}
	b = append(b, byte(v)|240)
	for v = (v - 240) >> 4; v >= 128; v = (v - 128) >> 7 {
		b = append(b, byte(v)|128)
	}
	return append(b, byte(v))
}

// takeBytes reads a string.
func takeBytes(b []byte) (s, rest []byte, err error) {
	n, b, err := takeVarint(b)
	if err != nil || n > uint64(len(b)) {
		return nil, nil, errFrame
	}
	return b[:n], b[n:], nil
}

// value is one typed datum; which field counts depends on the type.
type value struct {
	kind byte
	num  uint64 // integers; bool: 0 or 1
	text []byte // string, binary, address: it lives as long as what was read
}

// addr returns what typeIPv4 and typeIPv6 hold.
func (v *value) addr() netip.Addr {
	a, _ := netip.AddrFromSlice(v.text)
	return a
}

func takeValue(b []byte) (v value, rest []byte, err error) {
	rest, err = v.take(b)
	return v, rest, err
}

// take reads v, which is empty, and returns what follows it.
func (v *value) take(b []byte) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, errFrame
	}
	head := b[0]
	v.kind = head & typeMask
	b = b[1:]
	switch v.kind {
	case typeNull:
		return b, nil
	case typeBool:
		if head&boolTrue != 0 {
			v.num = 1
		}
		return b, nil
	case typeInt32, typeUint32, typeInt64, typeUint64:
		v.num, b, err = takeVarint(b)
		return b, err
	case typeIPv4, typeIPv6:
		size := 4
		if v.kind == typeIPv6 {
			size = 16
		}
		if len(b) < size {
			return nil, errFrame
		}
		v.text = b[:size]
		return b[size:], nil
	case typeString, typeBinary:
		v.text, b, err = takeBytes(b)
		return b, err
	}
	return nil, errFrame
}

func appendString(b []byte, s string) []byte { return append(appendVarint(b, uint64(len(s))), s...) }

// beginFrame appends a frame's head and returns where it begins, for endFrame.
func beginFrame(b []byte, kind byte, stream, id uint64) (out []byte, start int) {
	start = len(b)
	b = append(b, 0, 0, 0, 0, kind, 0, 0, 0, flagFin)
	b = appendVarint(b, stream)
	return appendVarint(b, id), start
}

// endFrame writes the length of the frame that began at start.
func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// appendVar appends the action that sets a variable of the transaction; the caller appends the value.
func appendVar(b []byte, name string) []byte {
	return appendString(append(b, actionSetVar, 3, scopeTxn), name)
}
