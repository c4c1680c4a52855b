package spoe

import (
	"bytes"
	"fmt"
)

// minFrame is the smallest bound of frames that a peer may ask for.
const minFrame = 256

// Codes of SPOP with which a connection is ended.
const (
	codeNormal      = 0
	codeTooBig      = 3
	codeInvalid     = 4
	codeNoVersion   = 5
	codeNoFrameSize = 6
	codeNoCaps      = 7
	codeBadVersion  = 8
	codeBadSize     = 9
	codeInterlaced  = 11
	codeNotFound    = 12
)

// protocolError ends a connection: the peer is told its code and text.
type protocolError struct {
	code uint64
	text string
}

func (e *protocolError) Error() string { return fmt.Sprintf("SPOP error %d: %s", e.code, e.text) }

func fail(code uint64, text string) error { return &protocolError{code, text} }

// hello is what HAProxy says of itself.
type hello struct {
	versions, caps []byte
	maxFrame       uint64
	check          bool // it only wants to know whether we live
}

func parseHello(b []byte) (h hello, err error) {
	for len(b) > 0 {
		var name []byte
		var v value
		if name, b, err = takeBytes(b); err != nil {
			return h, fail(codeInvalid, "a key of the hello is cut off")
		}
		if v, b, err = takeValue(b); err != nil {
			return h, fail(codeInvalid, "a value of the hello is cut off")
		}
		switch string(name) {
		case "supported-versions":
			h.versions = v.text
		case "max-frame-size":
			h.maxFrame = v.num
		case "capabilities":
			h.caps = v.text
			if v.kind == typeString && h.caps == nil {
				h.caps = []byte{}
			}
		case "healthcheck":
			h.check = v.num == 1
		}
	}
	return h, h.validate()
}

func (h hello) validate() error {
	switch {
	case h.versions == nil:
		return fail(codeNoVersion, "supported-versions is missing")
	case h.maxFrame == 0:
		return fail(codeNoFrameSize, "max-frame-size is missing")
	case h.caps == nil:
		return fail(codeNoCaps, "capabilities is missing")
	case h.maxFrame < minFrame:
		return fail(codeBadSize, "max-frame-size is below 256")
	}
	for _, version := range bytes.Split(h.versions, []byte{','}) {
		if bytes.HasPrefix(bytes.TrimSpace(version), []byte("2.")) {
			return nil
		}
	}
	return fail(codeBadVersion, "2.0 is not among the versions")
}

// pipelining: frames may be sent before earlier ones are answered.
func (h hello) pipelining() bool { return bytes.Contains(h.caps, []byte("pipelining")) }

// appendHello answers a hello.
func appendHello(b []byte, maxFrame int, pipelining bool) []byte {
	caps := "fragmentation"
	if pipelining {
		caps += ",pipelining"
	}
	b, start := beginFrame(b, frameAgentHello, 0, 0)
	b = appendString(append(appendString(b, "version"), typeString), "2.0")
	b = appendVarint(append(appendString(b, "max-frame-size"), typeUint32), uint64(maxFrame))
	b = appendString(append(appendString(b, "capabilities"), typeString), caps)
	return endFrame(b, start)
}

func appendDisconnect(b []byte, code uint64, text string) []byte {
	b, start := beginFrame(b, frameAgentDisconnect, 0, 0)
	b = appendVarint(append(appendString(b, "status-code"), typeUint32), code)
	b = appendString(append(appendString(b, "message"), typeString), text)
	return endFrame(b, start)
}
