package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// huma keeps these for the whole process; they are set before anything can use them.
func init() {
	huma.NewError = humaError
	huma.DefaultArrayNullable = false
	huma.ValidateStrictCasing = true
}

// humaError turns what huma finds wrong with a request into our error. Values are left out: they may be secrets.
func humaError(status int, message string, details ...error) huma.StatusError {
	e := &Error{Code: CodeInvalid, Message: message}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		e.Code = CodeForbidden
	case status >= 500:
		e.Code = CodeFailed
	}
	const most = 4
	for i, d := range details {
		if d == nil {
			continue
		}
		if i == most {
			e.Message += fmt.Sprintf("; and %d more", len(details)-most)
			break
		}
		text := d.Error()
		var at *huma.ErrorDetail
		if errors.As(d, &at) {
			text = strings.TrimPrefix(at.Location+": "+at.Message, ": ")
		}
		e.Message += ": " + text
	}
	return e
}

// strictJSON reads JSON that is valid UTF-8: encoding/json would quietly put U+FFFD for what is not.
func strictJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	return json.Unmarshal(data, v)
}

// asError makes an *Error of any error.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeFailed, Message: err.Error()}
}
