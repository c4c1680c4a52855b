package shim

import (
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Explanation says how a request is judged: everything that was found in it, and what decided.
type Explanation struct {
	Decision Decision
	Host     string       // as APIs are looked up: lower case, without port
	Paths    []Path       // the readings of the path, the one that counts first
	Found    []Identifier // in the order in which the request was read
	Notes    []string     // what else is worth knowing, one sentence each: why it was refused, what does not count
}

// Path is one way in which a backend may read the path.
type Path struct {
	Path string
	API  string // ID of its API, "": none
}

// Identifier is one reading of one identifier of a request. One value in the request has several readings if
// backends would read it differently.
type Identifier struct {
	ID        lists.ID
	Where     string // "Cookie header", "query parameter access_token", "claim sub of the token"
	Spelling  string // how it was read: "as it is", "percent-decoded"
	Canonical bool   // the only occurrence, in the spelling that a whitelist entry matches
	Verified  bool   // a username that may whitelist
	Matches   []Match
}

// Match is an entry that names an identifier.
type Match struct {
	List    lists.List
	Source  lists.Source
	Expires time.Time // the zero time: never
	Counts  bool      // false: Why says why it does not
	Why     string
}
