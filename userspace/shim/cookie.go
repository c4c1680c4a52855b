package shim

import (
	"strings"

	"github.com/portcullis/portcullis/lists"
)

// cookieLine reads one Cookie field as every backend might: pairs end at ; and for some at , or white space, unless for
// some they are in quotes; names may have white space around them.
func (w *work) cookieLine(line string) {
	signs := signsOf(line)
	quotes := signs&(signQuote|signComma) != 0
	for start := 0; start < len(line); {
		end := len(line)
		if i := strings.IndexByte(line[start:], ';'); i >= 0 {
			end = start + i
		}
		if w.cookiePairs++; w.cookiePairs > MaxCookies {
			w.refuse(tooLarge("too many cookies"))
			return
		}
		pair := trimBlanks(line[start:end])
		eq := strings.IndexByte(pair, '=')
		switch {
		case eq < 0:
			w.cookieWanted(pair, signs) // for some backends it is there, with an empty value
		case quotes && (strings.IndexByte(pair, '"') >= 0 || strings.IndexByte(pair, ',') >= 0),
			strings.IndexByte(pair, ' ') >= 0, signs&signTab != 0 && strings.IndexByte(pair, '\t') >= 0:
			w.oddPair(line, start, end, signs)
		default:
			// "a=1; b=2" is how every client separates them.
			lead := 0
			if start > 0 && line[start] == ' ' {
				lead = 1
			}
			w.cookiePair(pair[:eq], pair[eq+1:], signs, start+lead+len(pair) == end)
		}
		start = end + 1
	}
}

// cookiePair reads a pair that has no separators in it; plain: nor around it. signs are those of its line.
func (w *work) cookiePair(name, value string, signs sign, plain bool) {
	tag, wanted := w.cookieWanted(name, signs)
	if !wanted {
		return
	}
	if plain && (signs&(signEscape|signHigh) == 0 && value != "" || isPlain(value)) {
		w.canonical(key{kind: lists.KindCookie, form: formStrict, name: name, value: value}, w.index.name(name), nameTag(lists.KindCookie, tag))
		w.session(tag, name, value)
	}
	if signs&signSpelled == 0 {
		w.readingAsIs(lists.KindCookie, tag, value)
	} else {
		w.cookieValue(tag, value)
	}
	w.done()
}

// cookieWanted folds the name into w.folded and reports whether a cookie of that name is of interest; if so, it counts
// as there. signs are those of the name or of more.
func (w *work) cookieWanted(name string, signs sign) (tag uint64, wanted bool) {
	w.fold(name, signs)
	if w.trace == nil && !w.gather && !w.cookieNames.may(w.folded) {
		return 0, false
	}
	tag = w.index.name(textOf(w.folded))
	wanted = w.lists(lists.KindCookie, tag) || w.trace != nil
	for _, p := range w.plans[:w.apis] {
		wanted = wanted || p.cookie == tag
	}
	if wanted {
		w.from("cookie", name)
		w.occurs(nameTag(lists.KindCookie, tag))
	}
	return tag, wanted
}

// session remembers the session cookie of the API, which detectors may be told of.
func (w *work) session(tag uint64, name, value string) {
	if w.apis > 0 && w.plans[0].cookie == tag && w.cookie == "" {
		w.cookieName, w.cookie, w.cookieGroup = name, value, nameTag(lists.KindCookie, tag)
	}
}

// cookieValue looks up the readings of one value; the name is in w.folded.
func (w *work) cookieValue(tag uint64, v string) {
	w.speller.each(v, true, func(value string, how spelling) { w.reading(lists.KindCookie, tag, value, how) })
}

// oddPair reads line[start:end], which holds no ; but quotes, commas or white space: a pair may begin after any of them.
func (w *work) oddPair(line string, start, end int, signs sign) {
	first := true
	for eq := start; ; eq++ {
		i := strings.IndexByte(line[eq:end], '=')
		if i < 0 {
			return
		}
		eq += i
		nameEnd := eq
		for nameEnd > start && isBlank(line[nameEnd-1]) {
			nameEnd--
		}
		nameStart := nameEnd
		for nameStart > start && !separates(line[nameStart-1]) {
			nameStart--
		}
		if whole := trimBlanks(line[start:nameEnd]); first && len(whole) > nameEnd-nameStart {
			w.oddCookie(line, whole, eq+1, end, signs) // names with spaces in them, which PHP takes for _
		}
		first = false
		if nameStart < nameEnd {
			w.oddCookie(line, line[nameStart:nameEnd], eq+1, end, signs)
		}
		if w.problem.reason != PassUnlisted {
			return
		}
	}
}

// oddCookie reads a cookie whose value begins at start and ends at end, or for some backends before or after it.
func (w *work) oddCookie(line, name string, start, end int, signs sign) {
	tag, wanted := w.cookieWanted(name, signs)
	if !wanted {
		return
	}
	w.cookieValue(tag, strings.TrimRight(line[start:end], " \t"))
	from := start
	for from < end && isBlank(line[from]) {
		from++
	}
	if from == end {
		return
	}
	value := strings.TrimRight(line[from:end], " \t")
	if from > start {
		w.cookieValue(tag, value)
	}
	if comma := strings.IndexByte(value, ','); comma >= 0 {
		w.cookieValue(tag, strings.TrimRight(value[:comma], " \t"))
	}
	if blank := indexBlank(value); blank >= 0 {
		w.cookieValue(tag, value[:blank])
		if comma := strings.IndexByte(value[:blank], ','); comma >= 0 {
			w.cookieValue(tag, value[:comma])
		}
	}
	if line[from] == '"' {
		if length := quotedLen(line[from:]); length > 0 {
			w.cookieValue(tag, line[from:from+length])
		}
	}
}

// quotedLen returns the length of the quoted string that s begins with, 0 if it does not end.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// separates reports whether the name of a cookie may begin after c.
func separates(c byte) bool {
	switch c {
	case ' ', '\t', ',', '"', '=':
		return true
	}
	return false
}
