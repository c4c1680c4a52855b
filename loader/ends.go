package loader

import (
	"container/heap"

	"github.com/portcullis/portcullis/loader/compile"
)

// ends are prefixes, or what stands for them, by when they end. The zero value is ready.
type ends[K any] struct {
	order deadlines
	at    map[int64][]K
}

func (e *ends[K]) add(p K, c compile.Cell, soon func(int64) bool) {
	d, ok := c.Ends()
	if !ok || soon(d) {
		return
	}
	if e.at == nil {
		e.at = make(map[int64][]K)
	}
	if _, ok := e.at[d]; !ok {
		heap.Push(&e.order, d)
	}
	e.at[d] = append(e.at[d], p)
}

// take removes what ends soon and returns it.
func (e *ends[K]) take(soon func(int64) bool) (ended []K) {
	for len(e.order) > 0 && soon(e.order[0]) {
		d := heap.Pop(&e.order).(int64)
		ended = append(ended, e.at[d]...)
		delete(e.at, d)
	}
	return ended
}

type deadlines []int64

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i] < d[j] }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(v any)        { *d = append(*d, v.(int64)) }
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	v := (*d)[last]
	*d = (*d)[:last]
	return v
}
