package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
)

// copyStep is how many pages (4 KiB) of a copy are written before they are brought to the disk.
const copyStep = 64

// copyPages copies the database, as it is at this moment and while others write to it, into an empty file. It goes
// in small steps and has each on the disk before the next: a change that is being made durable meanwhile waits for
// what stands in the disk's queue before it, and a whole copy there would hold it up for long.
func copyPages(ctx context.Context, from, to string) (err error) {
	src, err := openPlain(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.close(nil)) }()
	// One read transaction throughout, or each change would make the copy begin anew.
	for _, q := range []string{"BEGIN", "SELECT count(*) FROM sqlite_schema"} {
		if err := src.exec(q); err != nil {
			return err
		}
	}
	dst, err := openPlain(ctx, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.close(nil)) }()
	// A torn copy is thrown away, so it needs no journal; without a cache its pages go to the file at once.
	for _, q := range []string{"PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", fmt.Sprintf("PRAGMA cache_size = %d", copyStep)} {
		if err := dst.exec(q); err != nil {
			return err
		}
	}
	if err := copySteps(ctx, dst.conn, src.conn, to); err != nil {
		return err
	}
	return dst.exec("PRAGMA journal_mode = DELETE") // the copied header says WAL, which would want files beside it
}

func copySteps(ctx context.Context, dst, src *sqlite.Conn, to string) (err error) {
	file, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	b, err := sqlite.NewBackup(dst, "", src, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for more := true; more; {
		if more, err = b.Step(copyStep); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return fmt.Errorf("sync %s: %w", to, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// openPlain opens a database file with the settings it has.
func openPlain(ctx context.Context, path string) (*database, error) {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, err
	}
	conn.SetBusyTimeout(5 * time.Second)
	conn.SetInterrupt(ctx.Done())
	return &database{conn: conn, path: path}, nil
}
