package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// workload is what is sent: the same request over and over on kept connections, one at a time on each.
type workload struct {
	name   string
	groups []string // of contenders that are measured with it

	Connections int
	Request     string // as it goes over the wire
	Status      int    // expected of every answer
	Seconds     float64
}

// result is what a generator saw, and what the contender took.
type result struct {
	Requests, Failed int
	Failure          string // one of them
	Seconds          float64
	P50, P99         time.Duration
	CPU              time.Duration // of the contender
	Asked            time.Duration // of whom it asks: part of CPU
}

// perCPU is requests per second of the contender's CPU time.
func (r result) perCPU() float64 { return float64(r.Requests) / r.CPU.Seconds() }

// perSecond is requests per second of clock.
func (r result) perSecond() float64 { return float64(r.Requests) / r.Seconds }

// runLoad is the generator's process.
func runLoad(ctx context.Context, address, text string, out io.Writer) error {
	var w workload
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return fmt.Errorf("read load: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.Seconds*float64(time.Second)))
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		sum   result
		times []time.Duration
		began = time.Now()
	)
	for range w.Connections {
		wg.Go(func() {
			n, sampled, err := loadOne(ctx, address, w)
			mu.Lock()
			defer mu.Unlock()
			sum.Requests += n
			times = append(times, sampled...)
			if err != nil {
				sum.Failed, sum.Failure = sum.Failed+1, err.Error()
			}
		})
	}
	wg.Wait()
	sum.Seconds = time.Since(began).Seconds()
	if slices.Sort(times); len(times) > 0 {
		sum.P50, sum.P99 = times[len(times)/2], times[len(times)*99/100]
	}
	return json.NewEncoder(out).Encode(sum)
}

// loadOne sends on one connection until ctx ends, and times every eighth answer.
func loadOne(ctx context.Context, address string, w workload) (n int, sampled []time.Duration, err error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return 0, nil, err
	}
	defer c.Close()
	in, request := bufio.NewReaderSize(c, 8<<10), []byte(w.Request)
	_ = c.SetDeadline(time.Now().Add(time.Duration(w.Seconds*float64(time.Second)) + 10*time.Second))
	for turn := rand.IntN(8); ctx.Err() == nil; turn++ {
		var began time.Time
		if turn%8 == 0 {
			began = time.Now()
		}
		if _, err := c.Write(request); err != nil {
			return n, sampled, err
		}
		if err := readAnswer(in, w.Status); err != nil {
			return n, sampled, err
		}
		if !began.IsZero() {
			sampled = append(sampled, time.Since(began))
		}
		n++
	}
	return n, sampled, nil
}

var contentLength = []byte("content-length:")

// readAnswer reads one answer with a Content-Length, or of a status that has no body.
func readAnswer(in *bufio.Reader, status int) error {
	length := -1
	if status == http.StatusNoContent {
		length = 0
	}
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first:
			if got := strings.Fields(string(line)); len(got) < 2 || got[1] != strconv.Itoa(status) {
				return fmt.Errorf("answer %q, want status %d", line, status)
			}
		case len(line) == 0:
			if length < 0 {
				return fmt.Errorf("answer without Content-Length")
			}
			_, err := in.Discard(length)
			return err
		case len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength):
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[len(contentLength):]))); err != nil {
				return fmt.Errorf("answer with %q", line)
			}
		}
	}
}

// runBackend answers every request without a body at once with 1 KiB; it costs as little as it can.
func runBackend(ctx context.Context, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	context.AfterFunc(ctx, func() { l.Close() })
	answer := "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\n" +
		"Cache-Control: no-store\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			in := bufio.NewReaderSize(c, 8<<10)
			for {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) <= 2 {
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			}
		}()
	}
}
