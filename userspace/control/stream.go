package control

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

const contentLines = "application/x-ndjson"

// streaming is an operation that answers with lines of JSON.
func (s *Server) streaming(id, path, summary string, login []map[string][]string) huma.Operation {
	line := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[wireLine](), true, "")
	return huma.Operation{
		OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Security: login,
		Description: "One JSON object a line, as the schema says. The last line has end and count: without it the answer was cut.",
		Responses: map[string]*huma.Response{"200": {
			Description: "Lines of JSON",
			Content:     map[string]*huma.MediaType{contentLines: {Schema: line}},
		}},
		Errors: []int{400, 401, 403, 500},
	}
}

// lineWriter writes a stream line by line, buffered.
type lineWriter struct {
	buffer *bufio.Writer
	json   *json.Encoder
	count  int
}

func (w *lineWriter) write(line wireLine) error {
	w.count++
	return w.json.Encode(line)
}

// flush hands on what was written.
func (w *lineWriter) flush(ctx context.Context) error {
	if err := w.buffer.Flush(); err != nil {
		return err
	}
	if out, ok := ctx.Value(writerKey{}).(*stallWriter); ok {
		return out.control.Flush()
	}
	return nil
}

// lines answers with what fill writes and the line that says it is whole, or the error that broke it off.
func (s *Server) lines(fill func(*lineWriter) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", contentLines)
		ctx.SetStatus(http.StatusOK)
		out := &lineWriter{buffer: bufio.NewWriterSize(ctx.BodyWriter(), 32<<10)}
		out.json = json.NewEncoder(out.buffer)
		out.json.SetEscapeHTML(false)
		last := wireLine{End: true}
		err := fill(out)
		if err != nil {
			last = wireLine{Error: asError(err)}
		} else {
			last.Count = out.count
		}
		// A write that failed has closed the connection; there is nobody left to tell.
		if out.json.Encode(last) == nil {
			_ = out.buffer.Flush()
		}
	}}
}
