package lists

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// quoteMax is how many bytes of outside text a message shows.
const quoteMax = 64

// Quote returns text from outside (an argument, a feed, a header) in a form that is safe to show and to log:
// in double quotes, control and bidirectional characters and broken UTF-8 escaped, at most 64 bytes of it
// followed by how long it was.
func Quote(s string) string {
	if len(s) <= quoteMax {
		return strconv.Quote(s)
	}
	cut := quoteMax
	for cut > quoteMax-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.Quote(s[:cut]), len(s))
}
